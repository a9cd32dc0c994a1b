/* SPDX-License-Identifier: MIT */
/*
 * Single steps through a gdbstub: gdbstep SOCKET STEPS. The guest is stopped, makes STEPS steps, and stays stopped. Prints
 * the instruction pointer before and after each, one a line in hex; status 1 if the stub does not do as it should.
 * The protocol: "Debugging with GDB", appendix E. x86-64's RIP is the 17th register of the g packet.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PACKET_BYTES 8192
#define RIP_INDEX 16

static int stub;

static void give_up(const char *what)
{
    fprintf(stderr, "gdbstep: %s: %s\n", what, strerror(errno));
    exit(1);
}

static char get_byte(void)
{
    char byte;

    if (read(stub, &byte, 1) != 1)
        give_up("no answer");
    return byte;
}

static void put_packet(const char *text)
{
    char packet[64];
    unsigned sum = 0;

    for (const char *c = text; *c; c++)
        sum += (unsigned char)*c;
    int bytes = snprintf(packet, sizeof(packet), "$%s#%02x", text, sum & 0xff);
    if (write(stub, packet, (size_t)bytes) != bytes)
        give_up("the stub is gone");
}

static void get_packet(char text[PACKET_BYTES])
{
    size_t bytes = 0;
    char c;

    while (get_byte() != '$')
        ;
    while ((c = get_byte()) != '#' && bytes < PACKET_BYTES - 1)
        text[bytes++] = c;
    text[bytes] = 0;
    (void)get_byte();
    (void)get_byte();
    if (write(stub, "+", 1) != 1)
        give_up("the stub is gone");
}

static uint64_t get_rip(void)
{
    char text[PACKET_BYTES];
    uint64_t rip = 0;

    put_packet("g");
    do {
        get_packet(text);
    } while (*text == 'T' || *text == 'S'); /* that the guest has stopped, because of this connection */
    if (strlen(text) < (RIP_INDEX + 1) * 16)
        give_up("the registers are too few");
    for (int i = 7; i >= 0; i--) {
        char digits[3] = {text[RIP_INDEX * 16 + i * 2], text[RIP_INDEX * 16 + i * 2 + 1], 0};
        rip = rip << 8 | strtoul(digits, NULL, 16);
    }
    return rip;
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = 10};
    char text[PACKET_BYTES];

    if (argc != 3 || strlen(argv[1]) >= sizeof(address.sun_path)) {
        fputs("usage: gdbstep SOCKET STEPS\n", stderr);
        return 1;
    }
    strcpy(address.sun_path, argv[1]);
    stub = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(stub, (struct sockaddr *)&address, sizeof(address)) < 0)
        give_up(argv[1]);
    setsockopt(stub, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    put_packet("?");
    get_packet(text);
    printf("%llx\n", (unsigned long long)get_rip());
    for (int left = atoi(argv[2]); left > 0; left--) {
        put_packet("s");
        get_packet(text);
        if (strncmp(text, "T05", 3) != 0 && strncmp(text, "S05", 3) != 0)
            give_up(text);
        printf("%llx\n", (unsigned long long)get_rip());
    }
    return 0;
}
