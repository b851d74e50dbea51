"""A comparison from one YAML file: methods × budgets × seeds, every run a process of its own."""
