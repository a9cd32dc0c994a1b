/* SPDX-License-Identifier: MIT */
/*
 * MC146818A. Time passes by itself: the flags of register C (PF, AF, UF) are made from the interval
 * since they were made last, when somebody looks or the attachment's timer fires. It must never depend on being
 * called at any particular rate.
 */
#include "dev/cmos.h"

#include <string.h>
#include <time.h>

#define NS_PER_SECOND INT64_C(1000000000)
#define SECONDS_PER_DAY INT64_C(86400)
#define RTC_SECONDS_MAX INT64_C(7258118400) /* the year 2200: far from where nanoseconds overflow */

enum cmos_register {
    RTC_SECONDS = 0x00,
    RTC_SECONDS_ALARM = 0x01,
    RTC_MINUTES = 0x02,
    RTC_MINUTES_ALARM = 0x03,
    RTC_HOURS = 0x04,
    RTC_HOURS_ALARM = 0x05,
    RTC_DAY_OF_WEEK = 0x06,
    RTC_DAY_OF_MONTH = 0x07,
    RTC_MONTH = 0x08,
    RTC_YEAR = 0x09,
    RTC_REG_A = 0x0a,
    RTC_REG_B = 0x0b,
    RTC_REG_C = 0x0c,
    RTC_REG_D = 0x0d,
    CMOS_EQUIPMENT = 0x14,
    CMOS_BASE_MEMORY = 0x15,     /* KiB */
    CMOS_EXTENDED_MEMORY = 0x17, /* KiB above 1 MiB */
    CMOS_EXTENDED_MEMORY2 = 0x30,
    RTC_CENTURY = 0x32,
    CMOS_MEMORY_16M = 0x34,     /* 64 KiB units above 16 MiB */
    CMOS_BOOT_FLAG1 = 0x38,     /* 7..4 third device to boot from */
    CMOS_BOOT_FLAG2 = 0x3d,     /* 7..4 second | 3..0 first */
    CMOS_MEMORY_4G = 0x5b,      /* 64 KiB units above 4 GiB, three bytes */
    CMOS_SMP_COUNT = 0x5f,      /* processors but the first */
};

#define REG_A_UIP 0x80u
#define REG_A_RS 0x0fu
#define REG_B_SET 0x80u
#define REG_B_IRQS 0x70u /* PIE, AIE, UIE: the same places as PF, AF, UF */
#define REG_B_SQWE 0x08u
#define REG_B_DM 0x04u
#define REG_B_24H 0x02u
#define REG_C_IRQF 0x80u
#define REG_C_PF 0x40u
#define REG_C_AF 0x20u
#define REG_C_UF 0x10u
#define REG_D_VRT 0x80u
#define BOOT_LETTERS "acdn" /* in the order of their codes, from 1 on */
#define ALARM_ANY 0xc0u /* both top bits of an alarm byte: matches every value */
#define HOURS_PM 0x80u

#define UIP_NS INT64_C(244000)

static int64_t cmos_now_ns(const struct cmos *cmos)
{
    return cmos->backend->now_ns(cmos->opaque) + cmos->offset_ns;
}

static int64_t cmos_seconds(int64_t ns)
{
    return ns / NS_PER_SECOND - (ns % NS_PER_SECOND < 0);
}

static uint8_t cmos_encode(const struct cmos *cmos, int value)
{
    bool binary = (cmos->ram[RTC_REG_B] & REG_B_DM) != 0;
    return (uint8_t)(binary ? value : value / 10 % 10 << 4 | value % 10);
}

static int cmos_decode(const struct cmos *cmos, uint8_t byte)
{
    bool binary = (cmos->ram[RTC_REG_B] & REG_B_DM) != 0;
    return binary ? byte : (byte >> 4) * 10 + (byte & 0x0f);
}

static uint8_t cmos_encode_hours(const struct cmos *cmos, int hours)
{
    if ((cmos->ram[RTC_REG_B] & REG_B_24H) != 0) {
        return cmos_encode(cmos, hours);
    }
    int hours12 = hours % 12 == 0 ? 12 : hours % 12;
    return (uint8_t)(cmos_encode(cmos, hours12) | (hours >= 12 ? HOURS_PM : 0u));
}

static int cmos_decode_hours(const struct cmos *cmos, uint8_t byte)
{
    if ((cmos->ram[RTC_REG_B] & REG_B_24H) != 0) {
        return cmos_decode(cmos, byte);
    }
    int hours = cmos_decode(cmos, byte & (uint8_t)~HOURS_PM) % 12;
    return (byte & HOURS_PM) != 0 ? hours + 12 : hours;
}

/* The guest's time into the clock registers. */
static void cmos_latch_time(struct cmos *cmos)
{
    time_t seconds = (time_t)cmos_seconds(cmos_now_ns(cmos));
    struct tm tm;
    if (gmtime_r(&seconds, &tm) == NULL) {
        return; /* beyond any calendar: the registers keep what they had */
    }
    int year = tm.tm_year + 1900;
    cmos->ram[RTC_SECONDS] = cmos_encode(cmos, tm.tm_sec);
    cmos->ram[RTC_MINUTES] = cmos_encode(cmos, tm.tm_min);
    cmos->ram[RTC_HOURS] = cmos_encode_hours(cmos, tm.tm_hour);
    cmos->ram[RTC_DAY_OF_WEEK] = cmos_encode(cmos, tm.tm_wday + 1);
    cmos->ram[RTC_DAY_OF_MONTH] = cmos_encode(cmos, tm.tm_mday);
    cmos->ram[RTC_MONTH] = cmos_encode(cmos, tm.tm_mon + 1);
    cmos->ram[RTC_YEAR] = cmos_encode(cmos, year % 100);
    cmos->ram[RTC_CENTURY] = cmos_encode(cmos, year / 100 % 100);
}

/* The clock registers into the guest's time; timegm() makes sense of days that do not exist. */
static void cmos_take_time(struct cmos *cmos)
{
    struct tm tm = {
        .tm_sec = cmos_decode(cmos, cmos->ram[RTC_SECONDS]),
        .tm_min = cmos_decode(cmos, cmos->ram[RTC_MINUTES]),
        .tm_hour = cmos_decode_hours(cmos, cmos->ram[RTC_HOURS]),
        .tm_mday = cmos_decode(cmos, cmos->ram[RTC_DAY_OF_MONTH]),
        .tm_mon = cmos_decode(cmos, cmos->ram[RTC_MONTH]) - 1,
        .tm_year = cmos_decode(cmos, cmos->ram[RTC_CENTURY]) * 100 + cmos_decode(cmos, cmos->ram[RTC_YEAR]) - 1900,
    };
    int64_t host_ns = cmos->backend->now_ns(cmos->opaque);
    int64_t fraction_ns = (host_ns + cmos->offset_ns) % NS_PER_SECOND;
    int64_t seconds = (int64_t)timegm(&tm);
    if (seconds < 0 || seconds > RTC_SECONDS_MAX) {
        return; /* nonsense in BCD: time goes on as it was */
    }
    cmos->offset_ns = seconds * NS_PER_SECOND + fraction_ns - host_ns;
    cmos->seen_ns = host_ns + cmos->offset_ns;
}

/* Period of the periodic interrupt in 32768 Hz ticks, 0: off. MC146818A, table 5, time base 32768 Hz. */
static int64_t cmos_period_ticks(const struct cmos *cmos)
{
    unsigned rate = cmos->ram[RTC_REG_A] & REG_A_RS;
    if (rate == 0) {
        return 0;
    }
    return INT64_C(1) << (rate <= 2 ? rate + 6 : rate - 1);
}

static int64_t cmos_ticks(int64_t ns)
{
    return ns / NS_PER_SECOND * 32768 + ns % NS_PER_SECOND * 32768 / NS_PER_SECOND;
}

static bool cmos_alarm_byte_matches(uint8_t alarm, uint8_t now)
{
    return (alarm & ALARM_ANY) == ALARM_ANY || alarm == now;
}

static bool cmos_alarm_matches(const struct cmos *cmos, int64_t second_of_day)
{
    int hours = (int)(second_of_day / 3600);
    int minutes = (int)(second_of_day / 60 % 60);
    int seconds = (int)(second_of_day % 60);
    return cmos_alarm_byte_matches(cmos->ram[RTC_SECONDS_ALARM], cmos_encode(cmos, seconds)) &&
           cmos_alarm_byte_matches(cmos->ram[RTC_MINUTES_ALARM], cmos_encode(cmos, minutes)) &&
           cmos_alarm_byte_matches(cmos->ram[RTC_HOURS_ALARM], cmos_encode_hours(cmos, hours));
}

/* Seconds after `from` until the alarm, at most `most`; more: it does not come in that time. */
static int64_t cmos_alarm_distance(const struct cmos *cmos, int64_t from, int64_t most)
{
    int64_t distance = 1;
    int64_t of_day = (from % SECONDS_PER_DAY + SECONDS_PER_DAY) % SECONDS_PER_DAY;
    while (distance <= most && !cmos_alarm_matches(cmos, (of_day + distance) % SECONDS_PER_DAY)) {
        distance++;
    }
    return distance;
}

void cmos_update(struct cmos *cmos)
{
    int64_t now_ns = cmos_now_ns(cmos);
    uint8_t flags = 0;
    int64_t period = cmos_period_ticks(cmos);
    if (period != 0 && cmos_ticks(now_ns) / period != cmos_ticks(cmos->seen_ns) / period) {
        flags |= REG_C_PF;
    }
    int64_t seen = cmos_seconds(cmos->seen_ns);
    int64_t elapsed = cmos_seconds(now_ns) - seen;
    if ((cmos->ram[RTC_REG_B] & REG_B_SET) == 0 && elapsed > 0) {
        int64_t most = elapsed < SECONDS_PER_DAY ? elapsed : SECONDS_PER_DAY;
        flags |= REG_C_UF;
        flags |= cmos_alarm_distance(cmos, seen, most) <= most ? REG_C_AF : 0;
    }
    cmos->seen_ns = now_ns;
    cmos->ram[RTC_REG_C] |= flags;
    bool level = (cmos->ram[RTC_REG_B] & cmos->ram[RTC_REG_C] & REG_B_IRQS) != 0;
    cmos->ram[RTC_REG_C] = (uint8_t)((cmos->ram[RTC_REG_C] & ~REG_C_IRQF) | (level ? REG_C_IRQF : 0u));
    if (level != cmos->irq_level) {
        cmos->irq_level = level;
        cmos->backend->set_irq(cmos->opaque, level);
    }
}

int64_t cmos_next_ns(const struct cmos *cmos)
{
    uint8_t enabled = cmos->ram[RTC_REG_B];
    if (cmos->irq_level) {
        return -1; /* stands already: nothing more can come before it is read */
    }
    int64_t next_ns = -1;
    int64_t now_ns = cmos_now_ns(cmos);
    int64_t period = cmos_period_ticks(cmos);
    int64_t to_second_ns = (cmos_seconds(now_ns) + 1) * NS_PER_SECOND - now_ns;
    if ((enabled & REG_C_PF) != 0 && period != 0) {
        int64_t ticks = period - cmos_ticks(now_ns) % period;
        next_ns = (ticks * NS_PER_SECOND + 32767) / 32768;
    } else if ((enabled & REG_B_SET) != 0) {
        return -1;
    } else if ((enabled & REG_C_UF) != 0) {
        next_ns = to_second_ns;
    } else if ((enabled & REG_C_AF) != 0) {
        int64_t distance = cmos_alarm_distance(cmos, cmos_seconds(now_ns), SECONDS_PER_DAY);
        next_ns = distance > SECONDS_PER_DAY ? -1 : to_second_ns + (distance - 1) * NS_PER_SECOND;
    }
    return next_ns;
}

static bool cmos_is_time(unsigned index)
{
    return index == RTC_SECONDS || index == RTC_MINUTES || index == RTC_HOURS ||
           (index >= RTC_DAY_OF_WEEK && index <= RTC_YEAR) || index == RTC_CENTURY;
}

static uint8_t cmos_read_register(struct cmos *cmos)
{
    bool set = (cmos->ram[RTC_REG_B] & REG_B_SET) != 0;
    uint8_t value = cmos->ram[cmos->index];
    if (cmos_is_time(cmos->index) && !set) {
        cmos_latch_time(cmos);
        value = cmos->ram[cmos->index];
    } else if (cmos->index == RTC_REG_A) {
        int64_t in_second_ns = cmos_now_ns(cmos) - cmos_seconds(cmos_now_ns(cmos)) * NS_PER_SECOND;
        value |= !set && in_second_ns >= NS_PER_SECOND - UIP_NS ? REG_A_UIP : 0;
    } else if (cmos->index == RTC_REG_C) {
        cmos_update(cmos);
        value = cmos->ram[RTC_REG_C];
        cmos->ram[RTC_REG_C] = 0;
        cmos_update(cmos);
    }
    return value;
}

static void cmos_write_register(struct cmos *cmos, uint8_t value)
{
    bool set = (cmos->ram[RTC_REG_B] & REG_B_SET) != 0;
    if (cmos_is_time(cmos->index)) {
        if (!set) {
            cmos_latch_time(cmos);
        }
        cmos->ram[cmos->index] = value;
        if (!set) {
            cmos_take_time(cmos);
        }
    } else if (cmos->index == RTC_REG_A) {
        cmos->ram[RTC_REG_A] = value & (uint8_t)~REG_A_UIP;
    } else if (cmos->index == RTC_REG_B) {
        bool set_next = (value & REG_B_SET) != 0;
        if (set_next && !set) {
            cmos_latch_time(cmos);
            value &= (uint8_t)~REG_C_UF; /* SET clears UIE */
        } else if (!set_next && set) {
            cmos->ram[RTC_REG_B] = value; /* the new mode tells how the registers are to be read */
            cmos_take_time(cmos);
        }
        cmos->ram[RTC_REG_B] = value;
    } else if (cmos->index != RTC_REG_C && cmos->index != RTC_REG_D) {
        cmos->ram[cmos->index] = value;
    }
    cmos_update(cmos);
}

uint8_t cmos_read(struct cmos *cmos, unsigned port)
{
    return port == 0 ? 0xff : cmos_read_register(cmos); /* the index is write only */
}

void cmos_write(struct cmos *cmos, unsigned port, uint8_t value)
{
    if (port == 0) {
        cmos->index = value % CMOS_BYTES; /* bit 7 is the NMI mask, not the clock's */
    } else {
        cmos_write_register(cmos, value);
    }
}

void cmos_set_offset(struct cmos *cmos, int64_t seconds)
{
    cmos->offset_ns = seconds * NS_PER_SECOND;
    cmos->seen_ns = cmos_now_ns(cmos);
}

void cmos_set_memory(struct cmos *cmos, uint64_t low_bytes, uint64_t high_bytes)
{
    static const struct {
        uint8_t index;
        uint8_t bytes;
    } places[] = {{CMOS_BASE_MEMORY, 2}, {CMOS_EXTENDED_MEMORY, 2}, {CMOS_EXTENDED_MEMORY2, 2}, {CMOS_MEMORY_16M, 2}, {CMOS_MEMORY_4G, 3}};
    uint64_t above_1m_kib = low_bytes > 0x100000 ? (low_bytes - 0x100000) >> 10 : 0;
    uint64_t above_16m = low_bytes > 0x1000000 ? (low_bytes - 0x1000000) >> 16 : 0;
    uint64_t values[] = {640, above_1m_kib < 0xffff ? above_1m_kib : 0xffff, above_1m_kib < 0xffff ? above_1m_kib : 0xffff,
                         above_16m < 0xffff ? above_16m : 0xffff, high_bytes >> 16};
    for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        for (unsigned byte = 0; byte < places[i].bytes; byte++) {
            cmos->ram[places[i].index + byte] = (uint8_t)(values[i] >> (byte * 8));
        }
    }
}

void cmos_set_boot(struct cmos *cmos, unsigned cpus, const char *order)
{
    uint8_t codes[3] = {0};
    for (unsigned used = 0; *order != '\0' && used < sizeof(codes); order++) {
        const char *letter = strchr(BOOT_LETTERS, *order);
        if (letter != NULL) {
            codes[used++] = (uint8_t)(letter - BOOT_LETTERS + 1);
        }
    }
    cmos->ram[CMOS_BOOT_FLAG2] = (uint8_t)(codes[1] << 4 | codes[0]);
    cmos->ram[CMOS_BOOT_FLAG1] = (uint8_t)(codes[2] << 4);
    cmos->ram[CMOS_SMP_COUNT] = (uint8_t)(cpus - 1);
}

void cmos_reset(struct cmos *cmos)
{
    cmos->ram[RTC_REG_B] &= (uint8_t)~(REG_B_IRQS | REG_B_SQWE);
    cmos->ram[RTC_REG_C] = 0;
    cmos_update(cmos);
}

void cmos_init(struct cmos *cmos, const struct cmos_backend *backend, void *opaque)
{
    memset(cmos, 0, sizeof(*cmos));
    cmos->backend = backend;
    cmos->opaque = opaque;
    cmos->ram[RTC_REG_A] = 0x26; /* 32768 Hz time base, 1024 Hz periodic rate */
    cmos->ram[RTC_REG_B] = REG_B_24H;
    cmos->ram[RTC_REG_D] = REG_D_VRT;
    cmos->ram[CMOS_EQUIPMENT] = 0x02; /* a coprocessor, no display, no floppy */
    cmos->seen_ns = cmos_now_ns(cmos);
}
