"""From runs to paper: frames, tables beside the published ones, curves, reports. No torch."""
