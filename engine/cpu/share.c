/* SPDX-License-Identifier: MIT */
/*
 * Which accesses of a block share a TLB check. A group is made of accesses off the same value of
 * the same base register, close to each other; constant changes of the register (PUSH, POP, ADD
 * RSP) are followed. Nothing here may change what a program sees: if a shared check does not hold,
 * the block runs in its unshared form.
 */
#include "cpu/translate.h"

/* After instruction `in` of the dry run: which registers have new values now. */
void share_note_insn(struct trans *t, const struct insn *in)
{
    bool repeats = in->cls == INSN_STRING && HELPER_ARG_REP(in->helper_arg) != 0;
    if (in->cls == INSN_HELPER || in->cls == INSN_UD || repeats) {
        for (unsigned r = 0; r < 16; r++) { /* C code may have changed anything, the TLB included */
            t->version[r] = ++t->last_version;
            t->moved[r] = 0;
        }
        return;
    }
    for (unsigned r = 0; r < 16; r++) {
        if (in->moved_reg == (int)r) {
            t->moved[r] += in->moved;
        } else if ((in->gpr_written >> r & 1) != 0) {
            t->version[r] = ++t->last_version;
            t->moved[r] = 0;
        }
    }
}

static bool same_value(const struct access_note *a, const struct access_note *b)
{
    return a->base == b->base && a->version == b->version && a->index == b->index &&
           a->index_version == b->index_version && a->scale_log2 == b->scale_log2;
}

/*
 * The stack is written all the time, so its reads and writes share. Elsewhere a write joins only a
 * check for writing: a page that is merely read must not be asked for more.
 */
static bool may_join(const struct access_note *leader, const struct access_note *n)
{
    bool stack = leader->base == X86_RSP || leader->base == X86_RBP;
    return stack || leader->write || !n->write;
}

void share_decide(struct trans *t)
{
    unsigned slots = 0;

    for (unsigned i = 0; i < t->note_count && slots < SHARE_SLOTS; i++) {
        struct access_note *leader = &t->notes[i];
        if (leader->base == EMIT_NO_REG || leader->slot != 0) {
            continue;
        }
        int32_t low = leader->at, high = leader->at + leader->bytes;
        bool write = leader->write, joined = false;
        for (unsigned j = i + 1; j < t->note_count; j++) {
            struct access_note *n = &t->notes[j];
            if (n->slot != 0 || n->base == EMIT_NO_REG || !same_value(leader, n) || !may_join(leader, n)) {
                continue;
            }
            int32_t l = n->at < low ? n->at : low;
            int32_t h = n->at + n->bytes > high ? n->at + n->bytes : high;
            if (h - l > SHARE_RANGE) {
                continue;
            }
            low = l;
            high = h;
            write |= n->write;
            n->slot = (uint8_t)(slots + 1);
            joined = true;
        }
        if (joined) {
            leader->slot = (uint8_t)(++slots);
            leader->leader = true;
            leader->range = high - low;
            leader->write = write;
            for (unsigned j = i; j < t->note_count; j++) {
                if (t->notes[j].slot == leader->slot) {
                    t->notes[j].offset = t->notes[j].at - low;
                }
            }
        }
    }
}
