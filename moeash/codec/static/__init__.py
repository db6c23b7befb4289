"""Coders by static frequency tables: ANS and Huffman, and the tables both use."""
