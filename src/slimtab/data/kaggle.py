"""The Criteo Kaggle set in figures: the usual yardstick of the field."""

# Distinct tokens of C1 … C26 (Zhang et al., VLDB 2024).
CRITEO_KAGGLE = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
