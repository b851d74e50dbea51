"""The contract, for OptEmbed and its two halves."""

from slimtab.testing.contract import TableContract


class TestOptEmbed(TableContract):
    method = "optembed"


class TestOptEmbedE(TableContract):
    method = "optembed-e"


class TestOptEmbedD(TableContract):
    method = "optembed-d"

    def may_waste(self, counted, nbytes, features, dim):
        """One more column of a feature does not fit."""
        return nbytes - counted < 4 * max(feature.num_ids for feature in features)
