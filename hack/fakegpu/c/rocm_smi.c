/* A ROCm SMI that answers from the script.
 *
 *   smi.cards=1 (else cards=)   <n>.smi_bdf=768 (bus, device and function packed)
 *   <n>.ecc_corrected=  <n>.ecc_uncorrected=     without them the card has no such count
 *   smi.init=8                  the library does not start */

int rsmi_init(uint64_t flags) {
    (void)flags;
    script_enter(__func__);
    return (int)script_number("smi.init", 0);
}

int rsmi_num_monitor_devices(uint32_t *count) {
    script_enter(__func__);
    *count = (uint32_t)script_number("smi.cards", script_number("cards", 1));
    return 0;
}

int rsmi_dev_pci_id_get(uint32_t device, uint64_t *packed) {
    script_enter(__func__);
    *packed = (uint64_t)script_card_number(device, "smi_bdf", (device + 3) << 8);
    return 0;
}

int rsmi_dev_ecc_count_get(uint32_t device, uint64_t block, uint64_t counts[2]) {
    script_enter(__func__);
    double corrected = script_card_number(device, "ecc_corrected", -1);
    double uncorrected = script_card_number(device, "ecc_uncorrected", -1);
    if (block != 1 || corrected < 0 || uncorrected < 0) return 2;
    counts[0] = (uint64_t)corrected;
    counts[1] = (uint64_t)uncorrected;
    return 0;
}
