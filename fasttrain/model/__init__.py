"""Create, describe, freeze and run models. timm defines most of them."""
