"""Public check suites: run them on what you add, as this project runs them on what it ships."""
