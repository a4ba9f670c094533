"""Pure numerics: arrays in, arrays out; no models, no files."""
