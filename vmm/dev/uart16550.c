/* SPDX-License-Identifier: MIT */
/*
 * 16550A UART. A byte is on the wire the moment it is written, if the backend has room; so the
 * transmitter is empty again at once, and the THRE interrupt stands as long as it is enabled and IIR has not been
 * read. Received bytes below the trigger level are announced at once, as a character timeout. It must
 * never lose a byte that the backend has given, nor wait for anything.
 */
#include "dev/uart16550.h"

#include <string.h>

enum uart_register {
    UART_RBR_THR_DLL = 0,
    UART_IER_DLM = 1,
    UART_IIR_FCR = 2,
    UART_LCR = 3,
    UART_MCR = 4,
    UART_LSR = 5,
    UART_MSR = 6,
    UART_SCR = 7,
};

#define IER_RDI 0x01u
#define IER_THRI 0x02u
#define IER_RLSI 0x04u
#define IER_MSI 0x08u
#define IER_MASK 0x0fu

#define IIR_NO_INT 0x01u
#define IIR_MSI 0x00u
#define IIR_THRI 0x02u
#define IIR_RDI 0x04u
#define IIR_RLSI 0x06u
#define IIR_CTI 0x0cu
#define IIR_FIFO_ENABLED 0xc0u

#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u
#define FCR_CLEAR_TX 0x04u
#define FCR_KEPT 0xc9u /* enable, DMA mode, trigger level */

#define LCR_DLAB 0x80u

#define MCR_DTR 0x01u
#define MCR_RTS 0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u
#define MCR_LOOP 0x10u
#define MCR_MASK 0x1fu

#define LSR_DR 0x01u
#define LSR_OE 0x02u
#define LSR_THRE 0x20u
#define LSR_TEMT 0x40u

#define MSR_DCTS 0x01u
#define MSR_DDSR 0x02u
#define MSR_TERI 0x04u
#define MSR_DDCD 0x08u
#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u
#define MSR_DELTAS 0x0fu

#define UART_DIVISOR_9600 12u

static bool uart_fifo_on(const struct uart16550 *uart)
{
    return (uart->fcr & FCR_ENABLE) != 0;
}

static unsigned uart_fifo_room(const struct uart16550 *uart, const struct uart16550_fifo *fifo)
{
    unsigned depth = uart_fifo_on(uart) ? UART_FIFO_BYTES : 1u;
    return fifo->count < depth ? depth - fifo->count : 0;
}

static void uart_fifo_put(struct uart16550_fifo *fifo, uint8_t byte)
{
    fifo->bytes[(fifo->head + fifo->count) % UART_FIFO_BYTES] = byte;
    fifo->count++;
}

static uint8_t uart_fifo_get(struct uart16550_fifo *fifo)
{
    uint8_t byte = fifo->bytes[fifo->head];
    fifo->head = (uint8_t)((fifo->head + 1u) % UART_FIFO_BYTES);
    fifo->count--;
    return byte;
}

static unsigned uart_trigger(const struct uart16550 *uart)
{
    static const uint8_t triggers[] = {1, 4, 8, 14};
    return uart_fifo_on(uart) ? triggers[uart->fcr >> 6] : 1u;
}

/* The interrupt of the highest priority, as IIR's low four bits. */
static uint8_t uart_interrupt(const struct uart16550 *uart)
{
    if ((uart->ier & IER_RLSI) != 0 && uart->lsr_errors != 0) {
        return IIR_RLSI;
    }
    if ((uart->ier & IER_RDI) != 0 && uart->rx.count != 0) {
        return uart->rx.count >= uart_trigger(uart) ? IIR_RDI : IIR_CTI;
    }
    if ((uart->ier & IER_THRI) != 0 && uart->thre_pending) {
        return IIR_THRI;
    }
    if ((uart->ier & IER_MSI) != 0 && (uart->msr & MSR_DELTAS) != 0) {
        return IIR_MSI;
    }
    return IIR_NO_INT;
}

/* On a PC, OUT2 gates the interrupt output; in loopback the pin is inactive, but interrupts still work. */
static void uart_update_irq(struct uart16550 *uart)
{
    bool gate = (uart->mcr & (MCR_OUT2 | MCR_LOOP)) != 0;
    bool level = gate && uart_interrupt(uart) != IIR_NO_INT;
    if (level != uart->irq_level) {
        uart->irq_level = level;
        uart->backend->set_irq(uart->opaque, level);
    }
}

/* The modem inputs: a peer that is always there, or in loopback the modem outputs. */
static void uart_update_modem(struct uart16550 *uart)
{
    uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD;
    if ((uart->mcr & MCR_LOOP) != 0) {
        lines = (uint8_t)(((uart->mcr & MCR_RTS) != 0 ? MSR_CTS : 0u) | ((uart->mcr & MCR_DTR) != 0 ? MSR_DSR : 0u) |
                          ((uart->mcr & MCR_OUT1) != 0 ? MSR_RI : 0u) | ((uart->mcr & MCR_OUT2) != 0 ? MSR_DCD : 0u));
    }
    uint8_t changed = (uint8_t)(lines ^ uart->msr);
    uint8_t deltas = uart->msr & MSR_DELTAS;
    deltas |= (changed & MSR_CTS) != 0 ? MSR_DCTS : 0;
    deltas |= (changed & MSR_DSR) != 0 ? MSR_DDSR : 0;
    deltas |= (changed & MSR_RI) != 0 && (lines & MSR_RI) == 0 ? MSR_TERI : 0; /* trailing edge only */
    deltas |= (changed & MSR_DCD) != 0 ? MSR_DDCD : 0;
    uart->msr = (uint8_t)(lines | deltas);
}

static void uart_fill_rx(struct uart16550 *uart)
{
    uint8_t bytes[UART_FIFO_BYTES];
    unsigned room = uart_fifo_room(uart, &uart->rx);
    if (room == 0 || (uart->mcr & MCR_LOOP) != 0) {
        return;
    }
    size_t count = uart->backend->receive(uart->opaque, bytes, room);
    for (size_t i = 0; i < count && i < room; i++) {
        uart_fifo_put(&uart->rx, bytes[i]);
    }
}

static void uart_drain_tx(struct uart16550 *uart)
{
    bool had = uart->tx.count != 0;
    while (uart->tx.count != 0 && uart->backend->transmit(uart->opaque, uart->tx.bytes[uart->tx.head])) {
        uart_fifo_get(&uart->tx);
    }
    if (had && uart->tx.count == 0) {
        uart->thre_pending = true;
    }
}

static void uart_transmit(struct uart16550 *uart, uint8_t byte)
{
    if ((uart->mcr & MCR_LOOP) != 0) {
        if (uart_fifo_room(uart, &uart->rx) != 0) {
            uart_fifo_put(&uart->rx, byte);
        } else {
            uart->lsr_errors |= LSR_OE;
        }
        uart->thre_pending = true;
        return;
    }
    if (uart->tx.count == 0 && uart->backend->transmit(uart->opaque, byte)) {
        uart->thre_pending = true;
        return;
    }
    uart->thre_pending = false;
    if (uart_fifo_room(uart, &uart->tx) != 0) {
        uart_fifo_put(&uart->tx, byte);
    } /* else: a write to a full THR is lost, as on the chip */
}

void uart16550_pump(struct uart16550 *uart)
{
    uart_drain_tx(uart);
    uart_fill_rx(uart);
    uart_update_irq(uart);
}

void uart16550_reset(struct uart16550 *uart)
{
    const struct uart16550_backend *backend = uart->backend;
    void *opaque = uart->opaque;
    if (uart->irq_level) {
        backend->set_irq(opaque, false);
    }
    memset(uart, 0, sizeof(*uart));
    uart->backend = backend;
    uart->opaque = opaque;
    uart->divisor = UART_DIVISOR_9600;
    uart->mcr = MCR_OUT2;
    uart->msr = MSR_CTS | MSR_DSR | MSR_DCD;
    uart->thre_pending = true;
}

void uart16550_init(struct uart16550 *uart, const struct uart16550_backend *backend, void *opaque)
{
    memset(uart, 0, sizeof(*uart));
    uart->backend = backend;
    uart->opaque = opaque;
    uart16550_reset(uart);
}

static uint8_t uart_read_rbr(struct uart16550 *uart)
{
    if (uart->rx.count == 0) {
        return 0;
    }
    uint8_t byte = uart_fifo_get(&uart->rx);
    if (uart->rx.count == 0) {
        uart_fill_rx(uart);
    }
    return byte;
}

static uint8_t uart_read_iir(struct uart16550 *uart)
{
    uint8_t iir = uart_interrupt(uart);
    if (iir == IIR_THRI) {
        uart->thre_pending = false;
    }
    return (uint8_t)(iir | (uart_fifo_on(uart) ? IIR_FIFO_ENABLED : 0u));
}

static uint8_t uart_read_lsr(struct uart16550 *uart)
{
    uint8_t lsr = uart->lsr_errors;
    lsr |= uart->rx.count != 0 ? LSR_DR : 0;
    lsr |= uart->tx.count == 0 ? LSR_THRE | LSR_TEMT : 0;
    uart->lsr_errors = 0;
    return lsr;
}

uint8_t uart16550_read(struct uart16550 *uart, unsigned reg)
{
    bool dlab = (uart->lcr & LCR_DLAB) != 0;
    uint8_t value = 0xff;
    switch ((enum uart_register)(reg % UART_REGISTERS)) {
    case UART_RBR_THR_DLL:
        value = dlab ? (uint8_t)uart->divisor : uart_read_rbr(uart);
        break;
    case UART_IER_DLM:
        value = dlab ? (uint8_t)(uart->divisor >> 8) : uart->ier;
        break;
    case UART_IIR_FCR:
        value = uart_read_iir(uart);
        break;
    case UART_LCR:
        value = uart->lcr;
        break;
    case UART_MCR:
        value = uart->mcr;
        break;
    case UART_LSR:
        value = uart_read_lsr(uart);
        break;
    case UART_MSR:
        value = uart->msr;
        uart->msr &= (uint8_t)~MSR_DELTAS;
        break;
    case UART_SCR:
        value = uart->scr;
        break;
    }
    uart_update_irq(uart);
    return value;
}

static void uart_write_ier(struct uart16550 *uart, uint8_t value)
{
    bool thri_rises = (value & ~uart->ier & IER_THRI) != 0;
    uart->ier = value & IER_MASK;
    if (thri_rises && uart->tx.count == 0) {
        uart->thre_pending = true; /* enabling it with an empty THR announces it again: drivers probe for this */
    }
}

static void uart_write_fcr(struct uart16550 *uart, uint8_t value)
{
    bool toggled = ((value ^ uart->fcr) & FCR_ENABLE) != 0;
    if ((value & FCR_ENABLE) == 0) {
        value = 0; /* the other bits count only together with it */
    }
    if (toggled || (value & FCR_CLEAR_RX) != 0) {
        uart->rx.count = 0;
    }
    if (toggled || (value & FCR_CLEAR_TX) != 0) {
        uart->tx.count = 0;
        uart->thre_pending = true;
    }
    uart->fcr = value & FCR_KEPT;
    uart_fill_rx(uart);
}

void uart16550_write(struct uart16550 *uart, unsigned reg, uint8_t value)
{
    bool dlab = (uart->lcr & LCR_DLAB) != 0;
    switch ((enum uart_register)(reg % UART_REGISTERS)) {
    case UART_RBR_THR_DLL:
        if (dlab) {
            uart->divisor = (uint16_t)((uart->divisor & 0xff00u) | value);
        } else {
            uart_transmit(uart, value);
        }
        break;
    case UART_IER_DLM:
        if (dlab) {
            uart->divisor = (uint16_t)((uart->divisor & 0x00ffu) | (unsigned)value << 8);
        } else {
            uart_write_ier(uart, value);
        }
        break;
    case UART_IIR_FCR:
        uart_write_fcr(uart, value);
        break;
    case UART_LCR:
        uart->lcr = value;
        break;
    case UART_MCR:
        uart->mcr = value & MCR_MASK;
        uart_update_modem(uart);
        uart_fill_rx(uart);
        break;
    case UART_LSR: /* read only */
    case UART_MSR: /* read only */
        break;
    case UART_SCR:
        uart->scr = value;
        break;
    }
    uart_update_irq(uart);
}
