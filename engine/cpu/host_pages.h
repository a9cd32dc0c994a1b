/* SPDX-License-Identifier: MIT */
/*
 * The client's memory under the memory slots, as host pages. What the client itself writes there (devices' DMA) must drop
 * the code that was translated from it: a page with code is made read-only in the host's page tables ("frozen"), so that
 * the first store to it, of any thread, raises SIGSEGV, and the code goes.
 */
#ifndef KAGE_CPU_HOST_PAGES_H
#define KAGE_CPU_HOST_PAGES_H

#include "cpu/code_cache.h"

/* Host memory of a slot, from its start to its end. Ranges may overlap. Not in translated code's way: may allocate. 0 or -ENOMEM. */
KAGE_MUST_CHECK int host_range_add(hva_t hva, uint64_t bytes);
void host_range_remove(hva_t hva, uint64_t bytes);
/* Is that address guest memory? Safe in a signal handler. */
bool host_range_has(const void *addr);

/*
 * Makes p->host read-only. False: it cannot be (the client maps it read-only itself, the kernel writes it at the moment, the
 * process has too many mappings). p->vm->lock held; may use vector registers.
 */
bool host_page_freeze(struct code_page *p);
/* Undoes it. p->vm->lock held. */
void host_page_thaw(struct code_page *p);
/* A store to addr was refused. True if that was ours: the code of the page is gone, the store may be tried again. Signal handler. */
bool host_page_written(const void *addr);
/* What the client tells (kage.h), as host addresses: the kernel writes there; the mappings or what they allow have changed. */
void host_write_begins(uintptr_t first, uintptr_t end);
void host_write_ends(uintptr_t first, uintptr_t end);
void host_mapping_changed(uintptr_t first, uintptr_t end);
/* Before a VM's pages go away. */
void host_pages_forget(struct cpu_vm *vm);

#endif
