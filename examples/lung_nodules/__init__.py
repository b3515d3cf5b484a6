"""Lung nodules on CT: malignancy as a logit, biomarkers as regression, and the maps of both. No medical device."""
