"""Export of trained networks to bundles, which run without the training code."""
