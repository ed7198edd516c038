"""From runs to paper: pandas frames, tables beside the published ones, curves, reports. No torch."""
