"""Theory beside measurement: identities, predictions and closed forms, each a small function of `Comparison`s."""
