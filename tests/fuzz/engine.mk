# SPDX-License-Identifier: MIT
# The KVM API's harness: libkage by clang, with the flags of engine/meson.build; coverage, ASan and UBSan in kvm/ and apic/, where a
# client's arguments go, no sanitizer in what runs between translated blocks. tests/fuzz-smoke.sh runs this.
#   make -f tests/fuzz/engine.mk OUT=DIR CC=clang
PARTS := arch cpu mmu vmx apic kvm
SOURCES := $(foreach part,$(PARTS),$(wildcard engine/$(part)/*.c engine/$(part)/*.S))
OBJECTS := $(patsubst %,$(OUT)/%.o,$(SOURCES))
HARNESS := $(patsubst %,$(OUT)/%.o,tests/fuzz/fuzz_kvm.c tests/fuzz/fuzz_kvm_args.c tests/kvm/requests.c)

COMMON := -g -O1 -std=gnu17 -D_GNU_SOURCE -DKAGE_VERSION=\"fuzz\" -Iinclude -Iengine -MMD -MP
ENGINE := $(COMMON) -mgeneral-regs-only -fno-stack-protector -fno-strict-aliasing -fcf-protection=none -U_FORTIFY_SOURCE -include engine/arch/nolibc.h
# A client may give odd addresses, and none: they are only copied from and to.
CHECKED := -fsanitize=address,undefined -fno-sanitize=alignment,null -fno-sanitize-recover=undefined
COVERED := $(CHECKED) -fsanitize=fuzzer-no-link

FLAGS_kvm := $(COVERED)
FLAGS_apic := $(COVERED)
FLAGS_vmx := -fsanitize=address
FLAGS_mmu := -fsanitize=address

$(OUT)/fuzz_kvm: $(OBJECTS) $(HARNESS)
	$(CC) $(CHECKED) -fsanitize=fuzzer $^ -lZydis -lpthread -lrt -o $@

$(OUT)/engine/%.o: engine/%
	@mkdir -p $(@D)
	$(CC) $(ENGINE) $(FLAGS_$(patsubst engine/%/,%,$(dir $<))) -c $< -o $@

$(OUT)/tests/%.o: tests/%
	@mkdir -p $(@D)
	$(CC) $(COMMON) -Itests $(CHECKED) -fsanitize=fuzzer-no-link -c $< -o $@

-include $(OBJECTS:.o=.d) $(HARNESS:.o=.d)
