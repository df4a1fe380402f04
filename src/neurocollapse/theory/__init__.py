"""Theory beside measurement: identities, predictions, closed forms, each a small function that returns `Comparison`s."""
