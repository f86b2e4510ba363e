"""Models: timm makes them; here they are chosen, given weights, frozen and fed."""
