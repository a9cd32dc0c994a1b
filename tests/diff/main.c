/* SPDX-License-Identifier: MIT */
/*
 * difftest: runs the hand-picked cases, then cases of every encoding form, then random sequences, on
 * the host and in every mode of the guest, until the number of cases or the time given is used up.
 * A failure is reduced to what it needs and printed. Ends with "N passed, N failed, N skipped".
 */
#include "diff.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kage.h"

#define BATCH_CASES 1024
#define SHOWN_FAILURES 12 /* printed in full */
#define SHRINK_ROUNDS 12
#define DEFAULT_SECONDS 60
#define DEFAULT_CASES 10000000 /* the time is what ends a run */
#define EXC_UD 6
#define KERNEL_CASES 256 /* a host KVM may be a hundred times slower than libkage */

static const struct diff_mode host_mode = {.name = "host", .strict = true};
static const struct diff_mode modes[] = {
    {.name = "self", .strict = true}, /* the host against itself */
    {.name = "soft", .bits = 64, .guest = true},
    {.name = "soft-cpl0", .bits = 64, .guest = true, .cpl0 = true},
    {.name = "soft-nochain", .bits = 64, .guest = true, .flags = KAGE_TEST_NO_CHAIN},
    {.name = "soft-single", .bits = 64, .guest = true, .strict = true, .flags = KAGE_TEST_SINGLE_INSN},
    {.name = "soft-tinytlb", .bits = 64, .guest = true, .flags = KAGE_TEST_TINY_TLB},
    {.name = "kernel", .bits = 64, .guest = true, .kernel = true, .strict = true},
    {.name = "compat", .bits = 32, .env = DIFF_COMPAT, .guest = true},
    {.name = "compat-cpl0", .bits = 32, .env = DIFF_COMPAT, .guest = true, .part = true, .cpl0 = true},
    {.name = "compat-nochain", .bits = 32, .env = DIFF_COMPAT, .guest = true, .part = true, .flags = KAGE_TEST_NO_CHAIN},
    {.name = "compat-single", .bits = 32, .env = DIFF_COMPAT, .guest = true, .part = true, .strict = true, .flags = KAGE_TEST_SINGLE_INSN},
    {.name = "compat-tinytlb", .bits = 32, .env = DIFF_COMPAT, .guest = true, .part = true, .flags = KAGE_TEST_TINY_TLB},
    {.name = "pae", .bits = 32, .env = DIFF_PAE, .guest = true, .part = true},
    {.name = "pae-cpl0", .bits = 32, .env = DIFF_PAE, .guest = true, .part = true, .cpl0 = true},
    {.name = "2level", .bits = 32, .env = DIFF_2LEVEL, .guest = true, .part = true},
    {.name = "flat", .bits = 32, .env = DIFF_FLAT, .guest = true, .part = true},
    {.name = "flat-cpl0", .bits = 32, .env = DIFF_FLAT, .guest = true, .part = true, .cpl0 = true},
    {.name = "kernel-compat", .bits = 32, .env = DIFF_COMPAT, .guest = true, .part = true, .kernel = true, .strict = true},
    {.name = "compat16", .bits = 16, .env = DIFF_COMPAT, .guest = true},
    {.name = "compat16-cpl0", .bits = 16, .env = DIFF_COMPAT, .guest = true, .part = true, .cpl0 = true},
    {.name = "compat16-single", .bits = 16, .env = DIFF_COMPAT, .guest = true, .part = true, .strict = true, .flags = KAGE_TEST_SINGLE_INSN},
    {.name = "2level16", .bits = 16, .env = DIFF_2LEVEL, .guest = true, .part = true},
    {.name = "flat16-cpl0", .bits = 16, .env = DIFF_FLAT, .guest = true, .part = true, .cpl0 = true},
    {.name = "real", .bits = 16, .env = DIFF_REAL, .guest = true, .cpl0 = true},
    {.name = "real-single", .bits = 16, .env = DIFF_REAL, .guest = true, .part = true, .cpl0 = true, .strict = true, .flags = KAGE_TEST_SINGLE_INSN},
    {.name = "v86", .bits = 16, .env = DIFF_V86, .guest = true, .part = true},
    {.name = "v86-vme", .bits = 16, .env = DIFF_VME, .guest = true, .part = true},
};
#define MODES (sizeof(modes) / sizeof(modes[0]))

static struct {
    uint64_t seed;
    unsigned long cases;
    double seconds;
    const char *filter, *mode;
    uint16_t filter_mnemonic; /* 0: the filter is part of a hand-picked case's name */
    bool verbose, hand_only;
    bool sequences; /* the first round is for the host only, to see what works, then come sequences */
    long only; /* --case: this case only */
} options = {.seed = 1, .cases = DEFAULT_CASES, .seconds = DEFAULT_SECONDS, .only = -1};

static struct {
    unsigned long passed, failed, skipped;
    bool ran, unavailable;
} totals[MODES];
static unsigned shown;
static bool kernel_good; /* the host has KVM with hardware virtualization */
static struct timespec started;

static double elapsed(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - started.tv_sec) + (double)(now.tv_nsec - started.tv_nsec) * 1e-9;
}

/* ---- the stream of cases ---- */

static struct {
    uint32_t id;
    size_t seq, form;
    unsigned round;
    unsigned batch_round; /* that the batch is of */
    unsigned form_cases; /* made in this round */
    unsigned broken; /* hand-picked cases that are none */
} stream;

static bool wanted(const struct diff_case *c)
{
    if (!options.filter)
        return true;
    if (c->name && strstr(c->name, options.filter))
        return true;
    for (unsigned i = 0; i < c->insns; i++)
        if (c->mnemonic[i] == options.filter_mnemonic)
            return true;
    return false;
}

/* The next case of a form that is worth another one; in the first round that is every form. */
static bool next_form(struct diff_case *c)
{
    while (stream.form < diff_form_count) {
        uint32_t index = (uint32_t)stream.form++;
        const struct diff_form *form = &diff_forms[index];
        if (options.filter && form->mnemonic != options.filter_mnemonic)
            continue;
        if (diff_refused(form->mnemonic, form->isa_set, form->category) || (stream.round > 0 && !diff_form_works(index)))
            continue;
        if (diff_gen_form(c, index))
            return true;
    }
    return false;
}

static bool next_case(struct diff_case *c)
{
    memset(c, 0, sizeof(*c));
    /* each case has its own randomness, so that one can be made again alone */
    for (;;) {
        c->id = stream.id++;
        diff_random_seed(options.seed * 0x1000003 + c->id);
        if (stream.seq < diff_seq_count()) {
            if (diff_seq_case(c, stream.seq++))
                return true;
            fprintf(stderr, "difftest: hand-picked case %s is too long\n", c->name);
            stream.broken++;
            continue;
        }
        if (options.hand_only)
            return false;
        if (stream.round > 0 && (c->id % 3 == 0 || options.sequences) && !options.filter) {
            if (diff_gen_sequence(c))
                return true;
            continue;
        }
        if (next_form(c)) {
            stream.form_cases++;
            return true;
        }
        stream.form = 0;
        stream.round++;
        if (stream.round == 1 || stream.form_cases == 0)
            return false;
        stream.form_cases = 0;
    }
}

/*
 * Fills the batch; it may stay empty. The first round ends a batch, because what comes next depends on
 * what the host said in it. False: there are no more cases.
 */
static bool batch_fill(struct diff_batch *batch, unsigned long room)
{
    unsigned round = stream.round;
    uint32_t n = 0;

    stream.batch_round = round;
    for (uint32_t tries = 0; n < room && n < BATCH_CASES && tries < 200000; tries++) {
        if (!next_case(&batch->cases[n]))
            break;
        n += wanted(&batch->cases[n]);
    }
    batch->count = n;
    return n > 0 || (round == 0 && stream.round == 1);
}

/* ---- running ---- */

static bool usable(const struct diff_case *c, const struct diff_outcome *host, const struct diff_mode *mode)
{
    /* what comes later depends on what the host said before: it runs them all, even for one case */
    if (host->status != DIFF_DONE || (options.only >= 0 && (long)c->id != options.only))
        return false;
    if (mode->guest && diff_arch->bits != 64 && !diff_modes_can(c, host, mode))
        return false;
    /* what is no instruction is so everywhere: a part of them is enough beyond the first mode */
    if (mode->guest && mode->part && host->vector == EXC_UD && c->id % 8)
        return false;
    return !mode->cpl0 || (!c->user_only && !(host->out.rflags & DIFF_FLAGS_AC));
}

struct pair {
    struct diff_batch *host, *guest;
};

static struct diff_outcome scratch_outcome;

/* Runs one case on both sides. */
static bool still_fails(struct pair *p, const struct diff_case *c, const struct diff_mode *mode)
{
    p->host->count = p->guest->count = 1;
    p->host->cases[0] = p->guest->cases[0] = *c;
    if (diff_batch_run(p->host, &host_mode) || p->host->outcomes[0].status != DIFF_DONE || diff_batch_run(p->guest, mode))
        return false;
    const struct diff_outcome *expected = diff_modes_expected(c, &p->host->outcomes[0], mode, &scratch_outcome);
    if (expected != &p->host->outcomes[0])
        p->host->outcomes[0] = *expected;
    return !diff_same(c, &p->host->outcomes[0], &p->guest->outcomes[0], mode);
}

static bool drop_insn(struct diff_case *c, unsigned i)
{
    unsigned at = c->insn_off[i], next = i + 1 < c->insns ? c->insn_off[i + 1] : c->code_len;

    if (c->insns < 2)
        return false;
    memmove(c->code + at, c->code + next, c->code_len - next);
    c->code_len = (uint16_t)(c->code_len - (next - at));
    return diff_case_analyse(c);
}

/* Takes away what the failure does not need: instructions, then register values. */
static void shrink(struct pair *p, struct diff_case *c, const struct diff_mode *mode)
{
    for (unsigned round = 0, changed = 1; changed && round < SHRINK_ROUNDS; round++) {
        changed = 0;
        for (unsigned i = c->insns; i-- > 0;) {
            struct diff_case smaller = *c;
            if (drop_insn(&smaller, i) && still_fails(p, &smaller, mode)) {
                *c = smaller;
                changed = 1;
            }
        }
    }
    for (unsigned i = 0; i < 16; i++) {
        struct diff_case smaller = *c;
        smaller.in.gpr[i] = 0;
        if (c->in.gpr[i] && i != 4 && still_fails(p, &smaller, mode))
            *c = smaller;
    }
    struct diff_case plain = *c;
    plain.in.rflags = 0x202;
    if (still_fails(p, &plain, mode))
        *c = plain;
}

static void show_failure(struct pair *scratch, struct diff_case *c, const struct diff_outcome *host, const struct diff_outcome *guest,
                         const struct diff_mode *mode)
{
    if (options.verbose && shown >= SHOWN_FAILURES)
        printf("FAIL %s case %u %s\n", mode->name, c->id, c->name ? c->name : ZydisMnemonicGetString((ZydisMnemonic)c->mnemonic[0]));
    if (shown++ >= SHOWN_FAILURES)
        return;
    printf("\nFAIL %s --seed %" PRIu64 " ", mode->name, options.seed);
    diff_print_case(stdout, c);
    diff_print_difference(stdout, c, host, guest, mode);
    if (mode->guest && c->insns > 1 && still_fails(scratch, c, mode)) {
        shrink(scratch, c, mode);
        printf("  reduced: ");
        diff_print_case(stdout, c);
        if (still_fails(scratch, c, mode))
            diff_print_difference(stdout, c, &scratch->host->outcomes[0], &scratch->guest->outcomes[0], mode);
    }
    fflush(stdout);
}

/* Runs the batch's usable cases in one mode and compares. */
static void run_mode(const struct diff_batch *host, struct diff_batch *guest, struct pair *scratch, size_t m)
{
    const struct diff_mode *mode = &modes[m];
    static uint32_t origin[BATCH_CASES];
    static struct diff_outcome room;
    uint32_t n = 0;

    for (uint32_t i = 0; i < host->count; i++) {
        if (!usable(&host->cases[i], diff_modes_expected(&host->cases[i], &host->outcomes[i], mode, &room), mode) || (mode->kernel && n >= KERNEL_CASES))
            continue;
        guest->cases[n] = host->cases[i];
        origin[n++] = i;
    }
    guest->count = n;
    totals[m].ran = true;
    if (n && diff_batch_run(guest, mode)) {
        totals[m].unavailable = true;
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct diff_outcome *g = &guest->outcomes[i];
        const struct diff_outcome *h = diff_modes_expected(&guest->cases[i], &host->outcomes[origin[i]], mode, &room);
        if (g->status == DIFF_REFUSED) {
            totals[m].skipped++;
        } else if (mode->kernel && !kernel_good && !diff_same(&guest->cases[i], h, g, mode)) {
            totals[m].skipped++; /* such a KVM emulates what faults, and not always right */
        } else if (diff_same(&guest->cases[i], h, g, mode)) {
            totals[m].passed++;
        } else {
            totals[m].failed++;
            show_failure(scratch, &guest->cases[i], h, g, mode);
        }
    }
}

static bool mode_selected(const struct diff_mode *mode)
{
    if (mode->bits && mode->bits != diff_arch->bits)
        return false;
    if (!options.mode || !strcmp(options.mode, "all"))
        return true;
    size_t len = strlen(options.mode);
    return !strcmp(mode->name, options.mode) || (!strcmp(options.mode, "soft") && !strncmp(mode->name, "soft", len));
}

static int parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"seed", required_argument, NULL, 's'},   {"cases", required_argument, NULL, 'n'}, {"time", required_argument, NULL, 't'},
        {"filter", required_argument, NULL, 'f'}, {"mode", required_argument, NULL, 'm'},  {"verbose", no_argument, NULL, 'v'},
        {"hand", no_argument, NULL, 'h'},         {"case", required_argument, NULL, 'c'},  {"bits", required_argument, NULL, 'b'},
        {"sequences", no_argument, NULL, 'q'},    {"mmu", required_argument, NULL, 'u'},
        {NULL, 0, NULL, 0},
    };
    int opt;

    while ((opt = getopt_long(argc, argv, "", longs, NULL)) >= 0)
        switch (opt) {
        case 's': options.seed = strtoull(optarg, NULL, 0); break;
        case 'n': options.cases = strtoul(optarg, NULL, 0); break;
        case 't': options.seconds = strtod(optarg, NULL); break;
        case 'f': options.filter = optarg; break;
        case 'm': options.mode = optarg; break;
        case 'v': options.verbose = true; break;
        case 'h': options.hand_only = true; break;
        case 'q': options.sequences = true; break;
        case 'c': options.only = strtol(optarg, NULL, 0); break;
        case 'b':
            for (size_t i = 0; i < 3; i++)
                if (!strcmp(diff_archs[i].name, optarg))
                    diff_arch = &diff_archs[i];
            break;
        case 'u':
            if ((diff_mmu = kage_mmu_find(optarg)) >= 0)
                break;
            /* fall through */
        default:
            fprintf(stderr, "usage: difftest [--mmu ept|shadow] [--bits 64|32|16] [--seed N] [--cases N] [--time SECONDS] [--filter MNEMONIC] [--mode NAME|all] [--hand] [--sequences] [--case ID] [--verbose]\n");
            return -1;
        }
    for (uint16_t m = 1; options.filter && m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
        if (!strcmp(ZydisMnemonicGetString((ZydisMnemonic)m), options.filter))
            options.filter_mnemonic = m;
    for (size_t i = 0; options.mode && i < MODES; i++)
        if (mode_selected(&modes[i]))
            return 0;
    if (options.mode)
        fprintf(stderr, "difftest: no mode \"%s\"\n", options.mode);
    return options.mode ? -1 : 0;
}

int main(int argc, char **argv)
{
    struct pair scratch;
    unsigned long ended[32] = {0}, done = 0, hangs = 0, syscalls = 0, crashes = 0, passed = 0, failed = 0, skipped = 0;
    char reason[256];

    if (parse(argc, argv))
        return 2;
#ifdef __SANITIZE_ADDRESS__
    if (diff_arch->bits != 64) { /* such code reaches all of the lower 4 GiB, where the sanitizer has its shadow */
        printf("0 passed, 0 failed, 1 skipped\n");
        return 77;
    }
#endif
    clock_gettime(CLOCK_MONOTONIC, &started);
    printf("difftest: %u-bit code, seed %" PRIu64 "\n", diff_arch->bits, options.seed);
    if (diff_state_init(options.seed) || diff_forms_init() || diff_cover_init()) {
        fprintf(stderr, "difftest: out of memory\n");
        return 2;
    }
    struct diff_batch *host = diff_batch_new(BATCH_CASES), *guest = diff_batch_new(BATCH_CASES);
    scratch.host = diff_batch_new(1);
    scratch.guest = diff_batch_new(1);
    if (!host || !guest || !scratch.host || !scratch.guest) {
        fprintf(stderr, "difftest: out of memory\n");
        return 2;
    }

    kernel_good = kage_backend_probe(&kage_backend_kernel, reason, sizeof(reason));
    bool part = options.filter || options.only >= 0 || options.hand_only || options.cases != DEFAULT_CASES;
    /* every form gets its first case, whatever the time that takes */
    while (done < options.cases && (elapsed() < options.seconds || (!part && stream.round == 0)) &&
           (options.only < 0 || (long)stream.id <= options.only) && batch_fill(host, options.cases - done)) {
        if (host->count && diff_batch_run(host, &host_mode)) {
            fprintf(stderr, "difftest: the host side does not run\n");
            return 1;
        }
        for (uint32_t i = 0; i < host->count; i++) {
            enum diff_status status = (enum diff_status)host->outcomes[i].status;
            if (status == DIFF_DONE) {
                diff_cover_case(&host->cases[i], &host->outcomes[i]);
                ended[host->outcomes[i].vector & 31]++;
            }
            hangs += status == DIFF_HANG;
            syscalls += status == DIFF_SYSCALL;
            crashes += status == DIFF_CRASH || status == DIFF_NONE;
            if (options.verbose && (status == DIFF_HANG || status == DIFF_CRASH)) {
                printf("%s on the host: ", status == DIFF_HANG ? "hangs" : "crashes");
                diff_print_case(stdout, &host->cases[i]);
            }
        }
        done += host->count;
        for (size_t m = 0; m < MODES && !(options.sequences && stream.batch_round == 0); m++)
            if (mode_selected(&modes[m]) && !totals[m].unavailable && !(modes[m].kernel && totals[m].ran))
                run_mode(host, guest, &scratch, m);
    }

    printf("\n%lu cases (%u rounds) in %.1f s; not comparable on the host: %lu hang, %lu call the kernel, %lu crash\n", done, stream.round, elapsed(), hangs,
           syscalls, crashes);
    printf("how they ended, by vector:");
    for (unsigned i = 0; i < 32; i++)
        if (ended[i])
            printf(" %u: %lu", i, ended[i]);
    printf("\n");
    for (size_t m = 0; m < MODES; m++) {
        if (totals[m].ran)
            printf("%-13s %8lu passed %6lu failed %6lu skipped%s\n", modes[m].name, totals[m].passed, totals[m].failed, totals[m].skipped,
                   totals[m].unavailable ? "  (does not run here)" : "");
        passed += totals[m].passed;
        failed += totals[m].failed;
        skipped += totals[m].skipped;
        if (totals[m].unavailable && !modes[m].kernel)
            failed++;
    }
    failed += diff_cover_report(stdout, options.verbose, stream.round > 0 && !options.filter && options.only < 0);
    failed += stream.broken;
    /* a host side that loses more than a few cases proves nothing */
    if (crashes * 50 > done)
        failed++;
    printf("%lu passed, %lu failed, %lu skipped\n", passed, failed, skipped + hangs + syscalls + crashes);
    diff_batch_free(host);
    diff_batch_free(guest);
    diff_batch_free(scratch.host);
    diff_batch_free(scratch.guest);
    return failed ? 1 : 0;
}
