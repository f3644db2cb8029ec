"""The tasks: each file is one way of training, found by being here."""
