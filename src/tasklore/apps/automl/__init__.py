"""AutoML that remembers: features, model and hyperparameters for a new table, from past ones."""
