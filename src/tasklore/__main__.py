"""``python -m tasklore`` is ``tasklore``."""

from .cli import main

if __name__ == "__main__":
    main()
