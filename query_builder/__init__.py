"""Wikipedia dump to query list: the terms that captions are matched against.

CLIP's recipe (Radford et al. 2021, section 2.2) asks for every word that occurs at least 100
times in the English Wikipedia, bigrams with high pointwise mutual information, the titles of
articles above a search volume, and WordNet's synsets that are not in the list yet.
``build.build_queries`` makes that list on Apache Beam; one file holds each part::

    inputs.py     the files that a list is made of
    dump.py       pages out of a MediaWiki XML dump
    wikis.py      which wiki a dump is of, by its head
    markup.py     wikitext to plain text
    links.py      what a reader sees of links and images
    image_words.py what other languages call images and their options
    words.py      what a word is
    counts.py     exact counts of words and bigrams, in columns
    part_counts.py what a part of a dump holds, in a file that serves more than one list
    view_lines.py lines of Wikimedia's page view files, in columns
    views.py      page views of the titles
    titles.py     titles with their views, on Beam
    synsets.py    the names of WordNet's synsets
    names.py      titles and synsets as queries
    terms.py      which candidates become queries
    shares.py     how many of each kind
    rejections.py what was rejected, and why
    build.py      the Beam pipeline
"""

import sys

from workers.base.processes import end_at_interrupts

if sys.argv[:1] == ["-m"]:  # one of the commands is being imported
    end_at_interrupts()
