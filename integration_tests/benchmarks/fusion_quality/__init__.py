"""Bits per byte of host, expert and fused model on real text, with every router and with peers.

Everything is teacher-forced. The host is run over its own tokens of a document, the expert over
its own tokens of the same bytes. At each host token the expert's word is its next-token
distribution after its own tokenization of the text so far, top K alone, as a server would send it;
then `align`, the routers and the evidence of the package itself decide.
"""
