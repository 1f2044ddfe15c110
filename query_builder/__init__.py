"""Wikipedia dump to query list: the terms that captions are matched against.

CLIP's recipe (Radford et al. 2021, section 2.2) asks for every word that occurs at least 100
times in the English Wikipedia, bigrams with high pointwise mutual information and the titles
of articles. ``build.build_queries`` makes that list on Apache Beam; one file holds each part::

    dump.py      pages out of a MediaWiki XML dump
    markup.py    wikitext to plain text
    words.py     what a word is
    counts.py    exact counts of words and bigrams, in columns
    terms.py     which of them become queries
    build.py     the Beam pipeline
"""
