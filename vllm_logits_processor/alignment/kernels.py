"""The kernels of a step on an accelerator, in Triton.

A group's sums are relative to its own largest logit, those of a part of the tail to that part's: so
no sum over- or underflows, however far from 0 the logits are, and none depends on the order in
which programs run. Where all members are masked, the largest logit is -inf and the sums are 0.

No kernel is specialised for a number that changes from step to step, so none is compiled during a
step. Triton takes no annotations but those of constants.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

#: Tokens of a group, and of a row, that a program looks at together.
GROUP_BLOCK, ROW_BLOCK = 512, 4096

#: Replaces -inf, to avoid 0 * -inf: its exp is zero in float32.
FLOOR = tl.constexpr(-200.0)


@triton.jit(do_not_specialize=["stride", "first", "width", "columns"])
def read_groups(
    logits,
    stride,
    rows,
    token_ids,
    single_begins,
    single_tokens,
    single_known,
    offsets,
    members,
    marks,
    group_sums,
    single_logits,
    first,
    width,
    columns,
    BLOCK: tl.constexpr,
) -> None:
    """Sum each group of a row, copy the logits of its singles, and mark what is not in its tail.

    The grid has the shape (rows, K + 1): the last program of a row reads its singles. `marks`, int8
    and 0, has a row for each of the grid; the row of `rows` is `first` places further down.
    `group_sums`, shape (all rows, K, 3), receives largest logit, sum of y and of y (x - largest).
    """
    here, group = tl.program_id(0), tl.program_id(1)
    place = first + here
    lane = tl.arange(0, BLOCK)
    row = logits + tl.load(rows + place).to(tl.int64) * stride
    marked = marks + here.to(tl.int64) * columns
    if group == width:
        begin, end = tl.load(single_begins + place), tl.load(single_begins + place + 1)
        for at in range(begin, end, BLOCK):
            inside = at + lane < end
            token = tl.load(single_tokens + at + lane, mask=inside, other=0)
            known = tl.load(single_known + at + lane, mask=inside, other=0)
            x = tl.load(row + token, mask=inside, other=0.0).to(tl.float32)
            tl.store(single_logits + at + lane, x, mask=inside)
            tl.store(marked + token, known.to(tl.int8), mask=inside & (known != 0))
    else:
        expert = tl.load(token_ids + place * width + group)
        begin = tl.load(offsets + expert, mask=expert >= 0, other=0)
        end = tl.load(offsets + expert + 1, mask=expert >= 0, other=0)
        most = tl.full((), -float("inf"), tl.float32)
        total = tl.full((), 0.0, tl.float32)
        moment = tl.full((), 0.0, tl.float32)
        for at in range(begin, end, BLOCK):
            inside = at + lane < end
            token = tl.load(members + at + lane, mask=inside, other=0)
            x = tl.load(row + token, mask=inside, other=-float("inf")).to(tl.float32)
            tl.store(marked + token, tl.full((BLOCK,), 1, tl.int8), mask=inside)
            largest = tl.maximum(most, tl.max(x, axis=0))
            base = tl.where(largest == -float("inf"), 0.0, largest)
            y = tl.exp(x - base)
            # The old sums, from the old largest logit to the new one.
            moved = tl.where(most == -float("inf"), 0.0, most - base)
            scale = tl.exp(moved)
            moment = (moment + total * moved) * scale
            moment += tl.sum(y * tl.maximum(x - base, FLOOR), axis=0)
            total = total * scale + tl.sum(y, axis=0)
            most = largest
        sums = group_sums + (place * width + group) * 3
        tl.store(sums, most)
        tl.store(sums + 1, total)
        tl.store(sums + 2, moment)


@triton.jit
def _of_tail(row, marked, at, columns):
    """Return the logits of some places of a row; -inf outside it, and where it is marked."""
    x = tl.load(row + at, mask=at < columns, other=-float("inf")).to(tl.float32)
    known = tl.load(marked + at, mask=at < columns, other=1)
    return tl.where(known != 0, -float("inf"), x)


@triton.jit(do_not_specialize=["stride", "first", "columns", "chunks"])
def read_tail(
    logits,
    stride,
    rows,
    marks,
    chunk_sums,
    first,
    columns,
    chunks,
    BLOCK: tl.constexpr,
) -> None:
    """Sum the tail of each chunk of a row; the grid has the shape (rows, chunks).

    `chunk_sums`, shape (rows, 3, chunks), receives largest logit, sum of y and of y (x - largest).
    """
    here, chunk = tl.program_id(0), tl.program_id(1)
    row = logits + tl.load(rows + first + here).to(tl.int64) * stride
    at = chunk * BLOCK + tl.arange(0, BLOCK)
    x = _of_tail(row, marks + here.to(tl.int64) * columns, at, columns)
    most = tl.max(x, axis=0)
    base = tl.where(most == -float("inf"), 0.0, most)
    y = tl.exp(x - base)
    sums = chunk_sums + here * 3 * chunks + chunk
    tl.store(sums, most)
    tl.store(sums + chunks, tl.sum(y, axis=0))
    tl.store(sums + 2 * chunks, tl.sum(y * tl.maximum(x - base, FLOOR), axis=0))


@triton.jit(do_not_specialize=["stride", "first", "columns", "chunks", "room"])
def bound_tail(
    logits,
    stride,
    rows,
    marks,
    chunk_sums,
    caps,
    tails,
    held_counts,
    held_tokens,
    held_logits,
    first,
    columns,
    chunks,
    room,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """List the tokens that the cap holds down, and sum the rest of the tail; a program per row.

    Those above the cap get it; the others share what is left, which may lift some of them above.
    No sum is a difference of larger ones. `CHUNKS` is the power of two from `chunks` on. Of the
    tokens, ascending, the first `room` are listed and all are counted. `tails`, shape (rows, 3),
    receives the tail's largest logit, and the rest's sum of y and of y (x - largest).
    """
    here = tl.program_id(0)
    place = first + here
    row = logits + tl.load(rows + place).to(tl.int64) * stride
    marked = marks + here.to(tl.int64) * columns
    lane, chunk_at = tl.arange(0, BLOCK), tl.arange(0, CHUNKS)
    peaks = chunk_sums + here * 3 * chunks
    present = chunk_at < chunks
    peak = tl.load(peaks + chunk_at, mask=present, other=-float("inf"))
    part = tl.load(peaks + chunks + chunk_at, mask=present, other=0.0).to(tl.float64)
    part_moment = tl.load(peaks + 2 * chunks + chunk_at, mask=present, other=0.0).to(tl.float64)
    most = tl.max(peak, axis=0)
    base = tl.where(most == -float("inf"), 0.0, most)
    moved = tl.where(peak == -float("inf"), 0.0, peak - base).to(tl.float64)
    scale = tl.exp(moved)
    rest = tl.sum(part * scale, axis=0)
    rest_moment = tl.sum((part_moment + part * moved) * scale, axis=0)

    cap = tl.load(caps + place).to(tl.float64)
    bound = cap * rest
    count = tl.full((), 0, tl.int32)
    going = (cap < 1.0) & (rest > 0.0) & (bound < 1.0)
    while going:
        above = tl.full((), 0, tl.int32)
        below = tl.full((), 0.0, tl.float64)
        below_moment = tl.full((), 0.0, tl.float64)
        limit = bound.to(tl.float32)
        for chunk in range(0, chunks):
            top = tl.load(peaks + chunk)
            if tl.exp(top - base) > limit:
                x = _of_tail(row, marked, chunk * BLOCK + lane, columns)
                y = tl.exp(x - base)
                over = y > limit
                above += tl.sum(over.to(tl.int32), axis=0)
                small = tl.where(over, 0.0, y)
                below += tl.sum(small, axis=0).to(tl.float64)
                terms = small * tl.maximum(x - base, FLOOR)
                below_moment += tl.sum(terms, axis=0).to(tl.float64)
            else:
                # A chunk without tail tokens has -inf, 0 and 0.
                far = tl.where(top == -float("inf"), 0.0, top - base).to(tl.float64)
                weight = tl.exp(far)
                of_chunk = tl.load(peaks + chunks + chunk).to(tl.float64)
                below += of_chunk * weight
                moment = tl.load(peaks + 2 * chunks + chunk).to(tl.float64)
                below_moment += (moment + of_chunk * far) * weight
        share = 1.0 - above.to(tl.float64) * cap
        going = (above != count) & (below > 0.0) & (share > 0.0)
        count, rest, rest_moment = above, below, below_moment
        if going:
            bound = cap * below / share

    sums = tails + place * 3
    tl.store(sums, most)
    tl.store(sums + 1, rest.to(tl.float32))
    tl.store(sums + 2, rest_moment.to(tl.float32))
    tl.store(held_counts + place, count)
    if count > 0:
        limit = bound.to(tl.float32)
        found = tl.full((), 0, tl.int32)
        for chunk in range(0, chunks):
            if tl.exp(tl.load(peaks + chunk) - base) > limit:
                at = chunk * BLOCK + lane
                x = _of_tail(row, marked, at, columns)
                over = tl.exp(x - base) > limit
                slot = found + tl.cumsum(over.to(tl.int32), axis=0) - 1
                kept = over & (slot < room)
                tl.store(held_tokens + place * room + slot, at, mask=kept)
                tl.store(held_logits + place * room + slot, x, mask=kept)
                found += tl.sum(over.to(tl.int32), axis=0)


@triton.jit
def _cells(logits, stride, rows, places, tokens, at, inside):
    """Return where the logits of some singles are."""
    place = tl.load(places + at, mask=inside, other=0)
    row = tl.load(rows + place, mask=inside, other=0).to(tl.int64)
    return logits + row * stride + tl.load(tokens + at, mask=inside, other=0)


@triton.jit(do_not_specialize=["stride", "count"])
def keep_singles(
    logits,
    stride,
    rows,
    single_places,
    single_tokens,
    kept,
    count,
    BLOCK: tl.constexpr,
) -> None:
    """Copy the singles' logits into `kept`: a group that holds some by f is added to next."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    cell = _cells(logits, stride, rows, single_places, single_tokens, at, inside)
    x = tl.load(cell, mask=inside, other=0.0)
    tl.store(kept + at, x.to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=["stride", "width"])
def add_gains(
    logits,
    stride,
    rows,
    token_ids,
    gains,
    offsets,
    members,
    width,
    BLOCK: tl.constexpr,
) -> None:
    """Add each group's gain to its members' logits; the grid has the shape (rows, K)."""
    place, group = tl.program_id(0), tl.program_id(1)
    row = logits + tl.load(rows + place).to(tl.int64) * stride
    expert = tl.load(token_ids + place * width + group)
    gain = tl.load(gains + place * width + group)
    begin = tl.load(offsets + expert, mask=expert >= 0, other=0)
    end = tl.load(offsets + expert + 1, mask=expert >= 0, other=0)
    lane = tl.arange(0, BLOCK)
    for at in range(begin, end, BLOCK):
        inside = at + lane < end
        token = tl.load(members + at + lane, mask=inside, other=0)
        x = tl.load(row + token, mask=inside, other=0.0).to(tl.float32)
        tl.store(row + token, (x + gain).to(logits.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["stride", "count"])
def set_singles(
    logits,
    stride,
    rows,
    single_places,
    single_tokens,
    kept,
    gains,
    count,
    BLOCK: tl.constexpr,
) -> None:
    """Give each single what it had before, plus its own gain."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    cell = _cells(logits, stride, rows, single_places, single_tokens, at, inside)
    x = tl.load(kept + at, mask=inside, other=0.0) + tl.load(gains + at, mask=inside, other=0.0)
    tl.store(cell, x.to(logits.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["stride"])
def lift_leaders(
    logits,
    stride,
    rows,
    places,
    experts,
    link_begins,
    link_tokens,
    offsets,
    members,
    BLOCK: tl.constexpr,
) -> None:
    """Give the likeliest token of each leading group the group's whole logit.

    A program for each leader: `places` are those of its row, `experts` its expert token, or -1 for
    a group that has members by g alone.
    """
    leader = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    row = logits + tl.load(rows + tl.load(places + leader)).to(tl.int64) * stride
    expert = tl.load(experts + leader)
    run = tl.load(offsets + expert, mask=expert >= 0, other=0)
    size = tl.load(offsets + expert + 1, mask=expert >= 0, other=0) - run
    link = tl.load(link_begins + leader)
    count = size + tl.load(link_begins + leader + 1) - link
    most = tl.full((), -float("inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    best = tl.full((), 2147483647, tl.int32)
    for at in range(0, count, BLOCK):
        each = at + lane
        by_f, by_g = each < size, (each >= size) & (each < count)
        token = tl.load(members + run + each, mask=by_f, other=0)
        token += tl.load(link_tokens + link + each - size, mask=by_g, other=0)
        x = tl.load(row + token, mask=each < count, other=-float("inf")).to(tl.float32)
        here = tl.max(x, axis=0)
        first = tl.min(tl.where((x == here) & (each < count), token, 2147483647), axis=0)
        best = tl.where(here > most, first, tl.where(here == most, tl.minimum(best, first), best))
        largest = tl.maximum(most, here)
        base = tl.where(largest == -float("inf"), 0.0, largest)
        moved = tl.where(most == -float("inf"), 0.0, most - base)
        total = total * tl.exp(moved) + tl.sum(tl.exp(x - base), axis=0)
        most = largest
    if total > 0:
        whole = (most + tl.log(total)).to(logits.dtype.element_ty)
        tl.store(row + best, whole)
