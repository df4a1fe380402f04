"""The page of a report: one HTML file that contains everything it needs."""
