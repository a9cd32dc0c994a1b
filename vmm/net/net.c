/* SPDX-License-Identifier: MIT */
#include "net/net.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the process, on the main loop's thread. */
static struct net_nic *nics;
static struct netdev *netdevs;

/* ---- The link ---- */

bool net_nic_link(const struct net_nic *nic)
{
    return !nic->link_down && nic->netdev != NULL && !nic->netdev->link_down;
}

static void net_tell_link(struct net_nic *nic, bool before)
{
    bool now = net_nic_link(nic);
    if (now != before && nic->ops->link_changed != NULL) {
        nic->ops->link_changed(nic->self, now);
    }
}

int net_set_link(const char *name, bool up)
{
    struct netdev *netdev = netdev_find(name);
    struct net_nic *nic = netdev != NULL ? netdev->nic : nics;
    while (netdev == NULL && nic != NULL && strcmp(nic->name, name) != 0) {
        nic = nic->next;
    }
    if (netdev == NULL && nic == NULL) {
        return -1;
    }
    bool before = nic != NULL && net_nic_link(nic);
    *(netdev != NULL ? &netdev->link_down : &nic->link_down) = !up;
    if (nic != NULL) {
        net_tell_link(nic, before);
    }
    return 0;
}

/* ---- NICs ---- */

struct net_nic *net_nics(void)
{
    return nics;
}

int net_nic_attach(struct net_nic *nic, struct netdev *netdev, struct error *error)
{
    if (netdev != NULL && netdev->nic != NULL) {
        return error_set(error, "Property '%s.netdev' can't take value '%s', it's in use", nic->model, netdev->id);
    }
    nic->netdev = netdev;
    nic->next = nics;
    nics = nic;
    if (netdev != NULL) {
        netdev->nic = nic;
        net_nic_set_offloads(nic, nic->offloads);
        net_nic_set_queues(nic, 1);
        for (unsigned i = 0; netdev->ops->room != NULL && i < netdev->queues; i++) {
            netdev->ops->room(netdev, i);
        }
    }
    return 0;
}

void net_nic_detach(struct net_nic *nic)
{
    for (struct net_nic **at = &nics; *at != NULL; at = &(*at)->next) {
        if (*at == nic) {
            *at = nic->next;
            break;
        }
    }
    struct netdev *netdev = nic->netdev;
    nic->netdev = NULL;
    if (netdev != NULL) {
        netdev->nic = NULL;
        for (unsigned i = 0; netdev->ops->room != NULL && i < netdev->queues; i++) {
            netdev->ops->room(netdev, i); /* what it has kept is lost */
        }
    }
}

bool net_nic_send(struct net_nic *nic, unsigned queue, const struct net_packet *packet)
{
    struct netdev *netdev = nic->netdev;
    return netdev == NULL || !net_nic_link(nic) || netdev->ops->send(netdev, queue % netdev->queues, packet);
}

void net_nic_room(struct net_nic *nic, unsigned queue)
{
    struct netdev *netdev = nic->netdev;
    if (netdev != NULL && netdev->ops->room != NULL && queue < netdev->queues) {
        netdev->ops->room(netdev, queue);
    }
}

void net_nic_set_offloads(struct net_nic *nic, unsigned offloads)
{
    nic->offloads = offloads;
    if (nic->netdev != NULL && nic->netdev->ops->set_offloads != NULL) {
        nic->netdev->ops->set_offloads(nic->netdev, offloads);
    }
}

void net_nic_set_queues(struct net_nic *nic, unsigned queues)
{
    if (nic->netdev != NULL && nic->netdev->ops->set_queues != NULL) {
        nic->netdev->ops->set_queues(nic->netdev, queues);
    }
}

/* ---- Back ends ---- */

unsigned netdev_queues(const struct netdev *netdev)
{
    return netdev != NULL ? netdev->queues : 1;
}

void netdev_register(struct netdev *netdev)
{
    netdev->next = netdevs;
    netdevs = netdev;
}

void netdev_free(struct netdev *netdev)
{
    if (netdev == NULL) {
        return;
    }
    for (struct netdev **at = &netdevs; *at != NULL; at = &(*at)->next) {
        if (*at == netdev) {
            *at = netdev->next;
            break;
        }
    }
    struct net_nic *nic = netdev->nic;
    if (nic != NULL) {
        bool before = net_nic_link(nic);
        nic->netdev = NULL;
        netdev->nic = NULL;
        net_tell_link(nic, before);
    }
    netdev->ops->free(netdev);
}

struct netdev *netdev_find(const char *id)
{
    struct netdev *at = netdevs;
    while (at != NULL && strcmp(at->id, id) != 0) {
        at = at->next;
    }
    return at;
}

bool netdev_deliver(struct netdev *netdev, unsigned queue, const struct net_packet *packet)
{
    struct net_nic *nic = netdev->nic;
    return nic == NULL || !net_nic_link(nic) || nic->ops->receive(nic->self, queue, packet);
}

void netdev_room(struct netdev *netdev, unsigned queue)
{
    if (netdev->nic != NULL && netdev->nic->ops->room != NULL) {
        netdev->nic->ops->room(netdev->nic->self, queue);
    }
}

/* ---- Addresses ---- */

void net_mac_default(uint8_t mac[NET_MAC_BYTES])
{
    static const uint8_t first[NET_MAC_BYTES] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    bool taken = true;
    for (unsigned n = 0; taken && n < 0x100 - 0x56; n++) {
        memcpy(mac, first, NET_MAC_BYTES);
        mac[5] = (uint8_t)(first[5] + n);
        taken = false;
        for (const struct net_nic *nic = nics; nic != NULL; nic = nic->next) {
            taken = taken || memcmp(nic->mac, mac, NET_MAC_BYTES) == 0;
        }
    }
}

int net_mac_parse(const char *text, uint8_t mac[NET_MAC_BYTES])
{
    uint8_t bytes[NET_MAC_BYTES];
    for (unsigned i = 0; i < NET_MAC_BYTES; i++, text += 3) {
        char digits[3] = {text[0], text[0] != '\0' ? text[1] : '\0', '\0'};
        if (!isxdigit((unsigned char)digits[0]) || !isxdigit((unsigned char)digits[1]) || strchr(i < NET_MAC_BYTES - 1 ? ":-" : "", text[2]) == NULL ||
            (text[2] == '\0' && i < NET_MAC_BYTES - 1)) {
            return -1;
        }
        bytes[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    memcpy(mac, bytes, NET_MAC_BYTES);
    return 0;
}

void net_mac_format(const uint8_t mac[NET_MAC_BYTES], char text[18])
{
    snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}
