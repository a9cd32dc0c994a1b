/* SPDX-License-Identifier: MIT */
/*
 * The network device between a driver and a back end that notes what it gets: both layouts, packets in one and in several buffers, a back end
 * without room, the control queue, and what is no packet or no command and ends in DEVICE_NEEDS_RESET.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <cmocka.h>

#include "virtio/net.h"
#include "virtio_driver.h"

#define PACKET_BYTES 3000u
#define FRAME_MAX 4096u
#define HEADER 12u

static struct loop loop;
static struct virtio_net *net;
static struct virtio_device *device;
static struct driver rx, tx, ctrl;
static uint8_t sent[FRAME_MAX];
static size_t sent_bytes;
static unsigned sent_count, room_count;
static bool full;

static bool backend_send(struct netdev *netdev, unsigned queue, const struct net_packet *packet)
{
    (void)netdev;
    (void)queue;
    if (full) {
        return false;
    }
    sent_bytes = 0;
    for (unsigned i = 0; i < packet->iov_count; i++) {
        memcpy(sent + sent_bytes, packet->iov[i].iov_base, packet->iov[i].iov_len);
        sent_bytes += packet->iov[i].iov_len;
    }
    assert_int_equal(sent_bytes, packet->bytes);
    sent_count++;
    return true;
}
static void backend_room(struct netdev *netdev, unsigned queue)
{
    (void)netdev;
    (void)queue;
    room_count++;
}
static void backend_free(struct netdev *netdev)
{
    (void)netdev;
}
static const struct netdev_ops backend_ops = {.type = "test", .send = backend_send, .room = backend_room, .free = backend_free};
static struct netdev backend;

static void serve(void)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        uint64_t count;
        if (eventfd_read(device->queues[i].kick.fd, &count) == 0) {
            device->queues[i].kick.ready(device->queues[i].kick.opaque, 0);
        }
    }
}

static void start(uint64_t refuse)
{
    assert_true(driver_negotiate(device, device->offered & ~refuse));
    driver_init_queue(&rx, device, 0, 64);
    driver_init_queue(&tx, device, 1, 64);
    driver_init_queue(&ctrl, device, 2, 64);
    driver_ok(device);
    serve();
}

static int setup(void **state)
{
    (void)state;
    struct error error;
    struct virtio_net_config_options config = {.virtio = virtio_options_default, .name = "n", .mac = {2, 0, 0, 0, 0, 1}, .netdev = &backend,
                                               .rx_queue_size = 64, .tx_queue_size = 64, .speed = UINT32_MAX, .duplex = 0xff};
    config.virtio.packed = true;
    config.features = VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_MAC_ADDR |
                      VIRTIO_NET_F_CTRL_VLAN | VIRTIO_NET_F_CSUM;
    memory = calloc(1, MEMORY_BYTES);
    sent_count = room_count = 0;
    full = false;
    backend = (struct netdev){.ops = &backend_ops, .id = "b", .queues = 1};
    assert_int_equal(loop_init(&loop), 0);
    netdev_register(&backend);
    net = virtio_net_new(&config, &loop, &memory_dma, &error);
    assert_non_null(net);
    device = virtio_net_device(net);
    device->transport = &test_transport;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    virtio_net_free(net);
    netdev_free(&backend);
    loop_fini(&loop);
    free(memory);
    return 0;
}

static bool deliver(uint8_t *frame, size_t bytes)
{
    struct iovec iov = {frame, bytes};
    const struct net_packet packet = {.iov = &iov, .iov_count = 1, .bytes = bytes};
    return netdev_deliver(&backend, 0, &packet);
}

static void receive_in(uint64_t refuse)
{
    uint8_t frame[PACKET_BYTES], got[PACKET_BYTES];
    uint16_t id, count;
    uint32_t written = 0;
    size_t at = 0;
    for (unsigned i = 0; i < PACKET_BYTES; i++) {
        frame[i] = (uint8_t)(i * 7);
    }
    start(refuse);
    for (unsigned round = 0; round < 100; round++) { /* around the ring more than once */
        for (unsigned i = 0; i < 2; i++) {
            driver_add(&rx, &(struct piece){BUFFERS_GPA + i * 0x1000, 1024, true}, 1, false);
        }
        assert_false(deliver(frame, sizeof(frame))); /* two are too few: none is used */
        assert_false(driver_take(&rx, &id, &written));
        driver_add(&rx, &(struct piece){BUFFERS_GPA + 2 * 0x1000, 1024, true}, 1, false);
        unsigned rooms = room_count;
        virtio_kick_queue(device, 0);
        serve();
        assert_int_equal(room_count, rooms + 1);
        assert_true(deliver(frame, sizeof(frame)));
        memcpy(&count, gpa(BUFFERS_GPA + 10), 2);
        assert_int_equal(count, 3);
        at = 0;
        for (unsigned i = 0; i < 3; i++) {
            assert_true(driver_take(&rx, &id, &written));
            unsigned skip = i == 0 ? HEADER : 0;
            memcpy(got + at, gpa(BUFFERS_GPA + i * 0x1000 + skip), written - skip);
            at += written - skip;
        }
        assert_int_equal(at, sizeof(frame));
        assert_memory_equal(got, frame, sizeof(frame));
    }
}

static void split_receive(void **state)
{
    (void)state;
    receive_in(VIRTIO_F_RING_PACKED);
}

static void packed_receive(void **state)
{
    (void)state;
    receive_in(0);
}

static void put_frame(void)
{
    memset(gpa(BUFFERS_GPA), 0, HEADER);
    for (unsigned i = 0; i < 100; i++) {
        ((uint8_t *)gpa(BUFFERS_GPA))[HEADER + i] = (uint8_t)i;
    }
}

static void send_and_wait_for_room(void **state)
{
    (void)state;
    uint16_t id = 0;
    uint32_t written = 0;
    start(0);
    put_frame();
    const struct piece pieces[2] = {{BUFFERS_GPA, 5, false}, {BUFFERS_GPA + 5, HEADER + 95, false}}; /* the header across two buffers */
    full = true;
    driver_add(&tx, pieces, 2, false);
    virtio_kick_queue(device, 1);
    serve();
    assert_false(driver_take(&tx, &id, &written));
    full = false;
    netdev_room(&backend, 0);
    assert_true(driver_take(&tx, &id, &written));
    assert_int_equal(sent_count, 1);
    assert_int_equal(sent_bytes, 100);
    assert_memory_equal(sent, (uint8_t *)gpa(BUFFERS_GPA) + HEADER, 100);
    /* A reset gives back what waits. */
    full = true;
    driver_add(&tx, pieces, 2, false);
    virtio_kick_queue(device, 1);
    serve();
    assert_int_equal(device->queues[1].in_flight, 1);
    virtio_set_status(device, 0);
    assert_int_equal(device->queues[1].in_flight, 0);
    /* Without a link it is taken, and lost. */
    start(0);
    config_interrupts = 0;
    assert_int_equal(net_set_link("n", false), 0);
    assert_int_equal(config_interrupts, 1);
    assert_int_equal(device->config[6] & 1, 0);
    driver_add(&tx, pieces, 2, false);
    virtio_kick_queue(device, 1);
    serve();
    assert_true(driver_take(&tx, &id, &written));
    assert_int_equal(sent_count, 1);
}

static uint8_t command(const void *bytes, uint32_t count)
{
    uint16_t id = 0;
    uint32_t written = 0;
    memcpy(gpa(BUFFERS_GPA), bytes, count);
    *(uint8_t *)gpa(BUFFERS_GPA + 0x800) = 0xff;
    const struct piece pieces[2] = {{BUFFERS_GPA, count, false}, {BUFFERS_GPA + 0x800, 1, true}};
    driver_add(&ctrl, pieces, 2, false);
    virtio_kick_queue(device, 2);
    serve();
    assert_true(driver_take(&ctrl, &id, &written));
    return *(uint8_t *)gpa(BUFFERS_GPA + 0x800);
}

static unsigned received(uint8_t first, uint8_t last)
{
    uint8_t frame[60] = {first, 0, 0, 0, 0, last};
    uint16_t id = 0;
    uint32_t written = 0;
    unsigned count = 0;
    driver_add(&rx, &(struct piece){BUFFERS_GPA + 0x4000, 1024, true}, 1, false);
    assert_true(deliver(frame, sizeof(frame)));
    while (driver_take(&rx, &id, &written)) {
        count++;
    }
    return count;
}

static void control(void **state)
{
    (void)state;
    start(VIRTIO_F_RING_PACKED);
    assert_int_equal(received(2, 9), 1); /* promiscuous to begin with */
    assert_int_equal(command((uint8_t[]){0, 0, 0}, 3), 0);
    assert_int_equal(received(2, 9), 0);
    assert_int_equal(received(2, 1), 1); /* its own */
    assert_int_equal(command((uint8_t[]){1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 0}, 16), 0);
    assert_int_equal(received(2, 9), 1);
    assert_int_equal(command((uint8_t[]){1, 1, 2, 0, 0, 0, 0, 7}, 8), 0);
    assert_int_equal(received(2, 7), 1);
    assert_int_equal(received(2, 1), 0);
    /* Refused: more addresses than there are bytes, a VLAN that is none, a feature not there, classes and numbers that are none, no data. */
    const uint8_t bad[][8] = {{1, 0, 0xff, 0xff, 0xff, 0xff}, {2, 0, 0, 0x10}, {4, 0, 1, 0}, {5, 0}, {0, 2, 1}, {9, 0}, {1, 7}, {3, 0}};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(command(bad[i], sizeof(bad[i])), 1);
    }
    assert_int_equal(command((uint8_t[]){0, 0}, 2), 1);
    assert_int_equal(received(2, 9), 1); /* and nothing of it holds */
}

static void malformed(void **state)
{
    (void)state;
    const struct {
        struct driver *driver;
        struct piece piece;
    } bad[] = {
        {&tx, {BUFFERS_GPA, HEADER - 1, false}}, {&tx, {BUFFERS_GPA, 100, true}},  {&tx, {0x10, 100, false}},   {&rx, {BUFFERS_GPA, HEADER - 1, true}},
        {&rx, {BUFFERS_GPA, 100, false}},        {&ctrl, {BUFFERS_GPA, 2, false}}, {&ctrl, {BUFFERS_GPA, 1, true}}, {&rx, {0x10, 100, true}},
    };
    for (unsigned i = 0; i < 2 * sizeof(bad) / sizeof(bad[0]); i++) {
        uint8_t frame[60] = {2, 0, 0, 0, 0, 1};
        struct driver *driver = bad[i / 2].driver;
        start(i % 2 != 0 ? VIRTIO_F_RING_PACKED : 0);
        driver_add(driver, &bad[i / 2].piece, 1, false);
        virtio_kick_queue(device, driver->queue->index);
        serve();
        deliver(frame, sizeof(frame));
        assert_true((virtio_status(device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET) != 0);
        virtio_set_status(device, 0);
        for (unsigned q = 0; q < device->queue_count; q++) {
            assert_int_equal(device->queues[q].in_flight, 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(split_receive, setup, teardown), cmocka_unit_test_setup_teardown(packed_receive, setup, teardown),
        cmocka_unit_test_setup_teardown(send_and_wait_for_room, setup, teardown), cmocka_unit_test_setup_teardown(control, setup, teardown),
        cmocka_unit_test_setup_teardown(malformed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
