/* SPDX-License-Identifier: MIT */
/*
 * The litmus tests. Processors are separated by |. An instruction is
 *   x=1    store          x>a    load into a            mf sf lf   fences
 *   x:1>a  XCHG           x+1>a  LOCK XADD              lk         a locked operation on the stack
 * The condition says which processor's register (1:a) or which location (at the end) has which value; whether it
 * may hold is what the literature says, and the model has to agree. Names are those of the papers (iwp: Intel 64
 * Architecture Memory Ordering White Paper; amd: APM 2 7.2; n1 to n8: Owens, Sarkar, Sewell), or of the usual
 * catalogue.
 */
#include "litmus.h"

struct litmus litmus_table[] = {
    {"SB (iwp2.3a)", "x=1 y>a | y=1 x>a", "0:a=0 1:a=0", true},
    {"SB+mfence (amd5)", "x=1 mf y>a | y=1 mf x>a", "0:a=0 1:a=0", false},
    {"SB+mfence on one side", "x=1 mf y>a | y=1 x>a", "0:a=0 1:a=0", true},
    {"SB+lock", "x=1 lk y>a | y=1 lk x>a", "0:a=0 1:a=0", false},
    {"SB+xchg (iwp2.8a)", "x:1>b y>a | y:1>b x>a", "0:a=0 1:a=0", false},
    {"SB+xadd", "x+1>b y>a | y+1>b x>a", "0:a=0 1:a=0", false},
    {"SB+sfence", "x=1 sf y>a | y=1 sf x>a", "0:a=0 1:a=0", true},
    {"SB+lfence", "x=1 lf y>a | y=1 lf x>a", "0:a=0 1:a=0", true},
    {"SB+forwarding (iwp2.4)", "x=1 x>a y>b | y=1 y>a x>b", "0:a=1 0:b=0 1:a=1 1:b=0", true},
    {"SB+forwarding+mfence (amd10)", "x=1 mf x>a y>b | y=1 mf y>a x>b", "0:b=0 1:b=0", false},
    {"MP (iwp2.1)", "x=1 y=1 | y>a x>b", "1:a=1 1:b=0", false},
    {"MP+sfence+lfence", "x=1 sf y=1 | y>a lf x>b", "1:a=1 1:b=0", false},
    {"MP+xchg (iwp2.8b)", "x:1>a y=1 | y>a x>b", "1:a=1 1:b=0", false},
    {"MP, over and over", "x=1 y=1 x=2 y=2 | y>a x>b y>c x>d", "1:a=2 1:b=1", false},
    {"LB (iwp2.2)", "x>a y=1 | y>a x=1", "0:a=1 1:a=1", false},
    {"S", "x=2 y=1 | y>a x=1", "1:a=1 x=2", false},
    {"R", "x=1 y=1 | y=2 x>a", "y=2 1:a=0", true},
    {"R+mfence", "x=1 y=1 | y=2 mf x>a", "y=2 1:a=0", false},
    {"R+xchg", "x=1 y=1 | y:2>b x>a", "y=2 1:a=0", false},
    {"2+2W", "x=1 y=2 | y=1 x=2", "x=1 y=1", false},
    {"2+2W+mfence", "x=1 mf y=2 | y=1 mf x=2", "x=1 y=1", false},
    {"CoRR", "x=1 | x>a x>b", "1:a=1 1:b=0", false},
    {"CoRR, two writers", "x=1 x=2 | x>a x>b x>c", "1:a=2 1:b=1", false},
    {"CoWW", "x=1 x=2", "x=1", false},
    {"CoRW", "x>a x=1 | x=2", "0:a=1", false},
    {"CoRW, other writer", "x>a x=1 | x=2", "0:a=2 x=2", false},
    {"CoWR", "x=1 x>a | x=2", "0:a=2 x=1", false},
    {"WRC (iwp2.5)", "x=1 | x>a y=1 | y>a x>b", "1:a=1 2:a=1 2:b=0", false},
    {"RWC", "x=1 | x>a y>b | y=1 x>a", "1:a=1 1:b=0 2:a=0", true},
    {"RWC+mfence", "x=1 | x>a y>b | y=1 mf x>a", "1:a=1 1:b=0 2:a=0", false},
    {"WWC", "x=2 | x>a y=1 | y>a x=1", "1:a=2 2:a=1 x=2", false},
    {"ISA2", "x=1 y=1 | y>a z=1 | z>a x>b", "1:a=1 2:a=1 2:b=0", false},
    {"3.SB", "x=1 y>a | y=1 z>a | z=1 x>a", "0:a=0 1:a=0 2:a=0", true},
    {"3.SB+lock", "x=1 lk y>a | y=1 lk z>a | z=1 lk x>a", "0:a=0 1:a=0 2:a=0", false},
    {"3.2W", "x=1 y=2 | y=1 z=2 | z=1 x=2", "x=1 y=1 z=1", false},
    {"IRIW (iwp2.6)", "x=1 | y=1 | x>a y>b | y>a x>b", "2:a=1 2:b=0 3:a=1 3:b=0", false},
    {"IRIW+mfence", "x=1 | y=1 | x>a mf y>b | y>a mf x>b", "2:a=1 2:b=0 3:a=1 3:b=0", false},
    {"IRIW+xchg (iwp2.7)", "x:1>a | y:1>a | x>a y>b | y>a x>b", "2:a=1 2:b=0 3:a=1 3:b=0", false},
    {"n1", "x=2 y>a | y=1 x=1 | x>a x>b", "0:a=0 2:a=1 2:b=2", true},
    {"n2", "x=1 y=1 | y=2 z=1 | z>a z>b x>c | y>a y>b", "2:a=0 2:b=1 2:c=0 3:a=1 3:b=2", false},
    {"n4", "x=1 x>a x>b | x=2 x>a x>b", "0:a=2 0:b=1 1:a=1 1:b=2", false},
    {"n4b", "x>a x=1 | x>a x=2", "0:a=2 1:a=1", false},
    {"n5", "x=1 x>a | x=2 x>a", "0:a=2 1:a=1", false},
    {"n6", "x=1 x>a y>b | y=2 x=2", "0:a=1 0:b=0 x=1", true},
    {"n7", "x=1 x>a y>b | y=1 | y>a x>b", "0:a=1 0:b=0 2:a=1 2:b=0", true},
    {"n7+mfence", "x=1 mf x>a y>b | y=1 | y>a x>b", "0:a=1 0:b=0 2:a=1 2:b=0", false},
    {"XCHG is one step", "x:1>a | x:2>a | x>a x>b", "0:a=2 1:a=1", false},
    {"XADD is one step", "x+1>a | x+1>a", "0:a=0 1:a=0", false},
    {"XADD, four at once", "x+1>a | x+1>a | x+1>a | x+1>a", "x=3", false},
    {"a store lost beside XADD", "x+1>a | x=5", "0:a=0 x=1", false},
    {"a store undone by XADD", "x+1>a x>b | x=5", "0:a=0 0:b=5 x=1", false},
};
const size_t litmus_count = sizeof(litmus_table) / sizeof(litmus_table[0]);
