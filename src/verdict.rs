//! What becomes of a frame: closed lists of drop and punt reasons.
