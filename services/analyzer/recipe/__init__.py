"""How the analyzer's weights were made: sources, decoders, augmentation, training and calibration.

The steps, each of which goes on where it stopped (docs/decisions/013-analyzer-training.md says why they are these):

    python -m services.analyzer.recipe.sources     # recorded audio from Debian's archive
    python -m services.analyzer.recipe.variants    # decoders of other architectures, briefly trained
    python -m services.analyzer.recipe.pairs       # real audio beside what decoders make of it
    python -m services.analyzer.recipe.heldout     # the same for recordings that no training hears
    python -m services.analyzer.recipe.train
    python -m services.analyzer.recipe.calibrate   # writes services/analyzer/weights
    python -m services.analyzer.evaluate --write   # measures them and writes the card
"""
