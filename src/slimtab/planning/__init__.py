"""Plans: how many bytes each feature deserves, by what it would cost to give it fewer."""
