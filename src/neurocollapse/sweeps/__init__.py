"""Runs on disk, and many of them: trained, resumed, listed and verified.

    OUT/<run-id>/config.json             the configuration and where it ran (`provenance`)
                 records.jsonl           a line per measured epoch
                 timings.jsonl           the seconds of each, apart so that records compare bit for bit
                 snapshots.safetensors   a few samples and Gram matrices of each, for a report
                 checkpoint.safetensors  weights and optimiser state at the last saved epoch
                 model.safetensors       the weights, once the run has finished
                 result.json             how the run ended; a run that has one is not run again

A run that a loop of the user's own recorded has config.json, records.jsonl and, at its end, result.json alone.
Every file is first written beside its place and then renamed, so a killed process leaves the last whole state.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
