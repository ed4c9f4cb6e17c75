"""The user's sentence and the plan that it becomes."""
