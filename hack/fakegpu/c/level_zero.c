/* A Level Zero loader that answers from the script. Places within the structures are those of Level Zero 1.8's header.
 *
 *   ze.drivers=1  ze.devices=1 (else cards=)     ze.init=<code>
 *   <n>.name=  <n>.ze_bus=3  <n>.ze_kind=1 (1 is a GPU)  <n>.memory_bytes= */

static uint32_t devices(void) { return (uint32_t)script_number("ze.devices", script_number("cards", 1)); }

static void put32(void *structure, size_t place, uint32_t value) { memcpy((char *)structure + place, &value, 4); }

int zeInit(uint32_t flags) {
    (void)flags;
    script_enter(__func__);
    return (int)script_number("ze.init", 0);
}

static int list(uint32_t there, uint32_t *count, void **handles) {
    uint32_t room = *count;
    *count = there;
    for (uint32_t index = 0; handles != NULL && index < there && index < room; ++index)
        handles[index] = (void *)(uintptr_t)(index + 1);
    return 0;
}

int zeDriverGet(uint32_t *count, void **handles) {
    script_enter(__func__);
    return list((uint32_t)script_number("ze.drivers", 1), count, handles);
}

int zeDeviceGet(void *driver, uint32_t *count, void **handles) {
    (void)driver;
    script_enter(__func__);
    return list(devices(), count, handles);
}

int zeDeviceGetProperties(void *device, void *properties) {
    unsigned card = (unsigned)(uintptr_t)device - 1;
    char name[256] = "Intel(R) Graphics";
    script_enter(__func__);
    if (*(uint32_t *)properties != 0x3) return 0x78000004;
    script_card_text(card, "name", name, sizeof name);
    put32(properties, 16, (uint32_t)script_card_number(card, "ze_kind", 1));
    put32(properties, 20, 0x8086);
    memset((char *)properties + 112, 'x', 256);
    memcpy((char *)properties + 112, name, strlen(name) + 1);
    return 0;
}

int zeDevicePciGetPropertiesExt(void *device, void *properties) {
    unsigned card = (unsigned)(uintptr_t)device - 1;
    script_enter(__func__);
    if (*(uint32_t *)properties != 0x10008) return 0x78000004;
    memset((char *)properties + 16, 0, 16);
    put32(properties, 20, (uint32_t)script_card_number(card, "ze_bus", card + 3));
    return 0;
}

int zeDeviceGetMemoryProperties(void *device, uint32_t *count, void *properties) {
    unsigned card = (unsigned)(uintptr_t)device - 1;
    uint64_t bytes = (uint64_t)script_card_number(card, "memory_bytes", 0);
    script_enter(__func__);
    if (properties != NULL) {
        if (*(uint32_t *)properties != 0x7) return 0x78000004;
        memcpy((char *)properties + 32, &bytes, 8);
    }
    *count = 1;
    return 0;
}
