/* SPDX-License-Identifier: MIT */
/*
 * The 16550A UART (National Semiconductor PC16550D) as a pure state machine: eight byte-wide registers,
 * an interrupt output and a byte backend. It knows no lock, no thread and no bus; serial.c has those.
 * Names of registers and bits are the data sheet's.
 */
#ifndef KAGE_DEV_UART16550_H
#define KAGE_DEV_UART16550_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UART_FIFO_BYTES 16u
#define UART_REGISTERS 8u

struct uart16550_backend {
    void (*set_irq)(void *opaque, bool level);
    /* Takes a byte; false: no room now, uart16550_pump() is called when there is. */
    bool (*transmit)(void *opaque, uint8_t byte);
    /* Gives up to `room` received bytes; fewer: uart16550_pump() is called when more have come. */
    size_t (*receive)(void *opaque, uint8_t *bytes, size_t room);
};

struct uart16550_fifo {
    uint8_t bytes[UART_FIFO_BYTES];
    uint8_t head;
    uint8_t count;
};

struct uart16550 {
    const struct uart16550_backend *backend;
    void *opaque;
    struct uart16550_fifo rx;
    struct uart16550_fifo tx; /* bytes that the backend had no room for */
    uint16_t divisor;
    uint8_t ier;
    uint8_t fcr;
    uint8_t lcr;
    uint8_t mcr;
    uint8_t lsr_errors; /* OE, PE, FE, BI: cleared by reading LSR */
    uint8_t msr;
    uint8_t scr;
    bool thre_pending; /* THRE interrupt: set when THR empties, cleared by reading IIR or writing THR */
    bool irq_level;
};

/* Power-on state, no interrupt. */
void uart16550_init(struct uart16550 *uart, const struct uart16550_backend *backend, void *opaque);
void uart16550_reset(struct uart16550 *uart);
/* `reg` 0 to 7. */
uint8_t uart16550_read(struct uart16550 *uart, unsigned reg);
void uart16550_write(struct uart16550 *uart, unsigned reg, uint8_t value);
/* Moves what can be moved between the backend and the FIFOs. */
void uart16550_pump(struct uart16550 *uart);

#endif
