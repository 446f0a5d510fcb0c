"""What is claimed and how it is shown: statistics, the table, the curves, the trajectory report."""
