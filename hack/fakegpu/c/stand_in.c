/* A Vulkan layer that has the first device stand in for a card: a renderer on the processors is shown as a card of
 * AMD's at the bus address SHARDWRIGHT_STAND_IN (0000:03:00.0). It computes as it did, so
 * that a card that really holds layers can be given faults. Only the agent is shown that: what computes sees the device
 * as it is, until the file SHARDWRIGHT_STAND_IN_LOST is there: from then on whatever it hands to the device is answered with
 * VK_ERROR_DEVICE_LOST.
 *
 * The structures are those of vulkan_core.h and vk_layer.h, as far as they are used; their layouts are part of Vulkan's
 * binary interface. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))
#define SUCCESS 0
#define INCOMPLETE 5
#define NOT_INITIALISED (-3)
#define DEVICE_LOST (-4)
#define LOADER_INSTANCE_CREATE_INFO 47
#define LOADER_DEVICE_CREATE_INFO 48
#define LAYER_LINK_INFO 0
#define PCI_BUS_INFO_PROPERTIES 1000212000
#define DISCRETE 2
#define AMD 0x1002

typedef void (*function_t)(void);
/* Of an instance or of a device. */
typedef function_t (*lookup_t)(void *owner, const char *name);
struct chained { int type; struct chained *next; };
struct link { struct link *next; lookup_t lookup; function_t physical; };
struct layer_info { int type; struct layer_info *next; int function; struct link *link; };
struct device_link { struct device_link *next; lookup_t instance, device; };
struct device_layer_info { int type; struct device_layer_info *next; int function; struct device_link *link; };
struct negotiation { int type; void *next; uint32_t version; lookup_t instance, device, physical; };
struct properties { uint32_t api, driver, vendor, device; int kind; char name[256]; };
struct properties2 { int type; struct chained *next; struct properties properties; };
struct pci { int type; struct chained *next; uint32_t domain, bus, device, function; };
struct extension { char name[256]; uint32_t version; };
struct create_info { int type; struct layer_info *next; };
struct device_create_info { int type; struct device_layer_info *next; };

typedef int (*create_t)(struct create_info *, const void *, void **);
typedef int (*create_device_t)(void *, struct device_create_info *, const void *, void **);
typedef int (*submit_t)(void *, uint32_t, const void *, void *);
typedef void (*properties_t)(void *, struct properties *);
typedef void (*properties2_t)(void *, struct properties2 *);
typedef int (*extensions_t)(void *, const char *, uint32_t *, struct extension *);

static lookup_t next_lookup;
static void *own_instance;
/* What comes below this layer, looked up when an instance is made: later the loader would answer with this layer's own. */
static properties_t next_properties;
static properties2_t next_properties2;
static extensions_t next_extensions;
/* The same of a device. */
static lookup_t next_device_lookup;
static submit_t next_submit;
static const char pci_extension[] = "VK_EXT_pci_bus_info";

static int disguised(void) { return strcmp(program_invocation_short_name, "shardwright-agent") == 0; }

static void disguise(struct properties *properties) {
    if (!disguised()) return;
    properties->vendor = AMD;
    properties->kind = DISCRETE;
    snprintf(properties->name, sizeof properties->name, "A card that stands in");
}

static void stand_in_properties(void *device, struct properties *properties) {
    next_properties(device, properties);
    disguise(properties);
}

static void stand_in_properties2(void *device, struct properties2 *properties) {
    unsigned domain = 0, bus = 3, slot = 0, function = 0;
    const char *address = getenv("SHARDWRIGHT_STAND_IN");
    next_properties2(device, properties);
    disguise(&properties->properties);
    if (!disguised()) return;
    if (address != NULL) sscanf(address, "%x:%x:%x.%x", &domain, &bus, &slot, &function);
    for (struct chained *one = properties->next; one != NULL; one = one->next) {
        struct pci *pci = (struct pci *)one;
        if (one->type != PCI_BUS_INFO_PROPERTIES) continue;
        pci->domain = domain, pci->bus = bus, pci->device = slot, pci->function = function;
    }
}

static int stand_in_extensions(void *device, const char *layer, uint32_t *count, struct extension *list) {
    uint32_t room = *count;
    int code;
    if (layer != NULL || !disguised()) return next_extensions(device, layer, count, list);
    if (list == NULL) {
        code = next_extensions(device, layer, count, NULL);
        *count += 1;
        return code;
    }
    if (room == 0) return INCOMPLETE;
    *count = room - 1;
    code = next_extensions(device, layer, count, list);
    memset(&list[*count], 0, sizeof *list);
    snprintf(list[*count].name, sizeof list->name, "%s", pci_extension);
    list[*count].version = 2;
    *count += 1;
    return code;
}

static int stand_in_create(struct create_info *info, const void *allocator, void **instance) {
    struct layer_info *layer = info->next;
    while (layer != NULL && !(layer->type == LOADER_INSTANCE_CREATE_INFO && layer->function == LAYER_LINK_INFO))
        layer = layer->next;
    if (layer == NULL) return NOT_INITIALISED;
    next_lookup = layer->link->lookup;
    layer->link = layer->link->next;
    create_t next = (create_t)next_lookup(NULL, "vkCreateInstance");
    int code = next == NULL ? NOT_INITIALISED : next(info, allocator, instance);
    if (code != SUCCESS) return code;
    own_instance = *instance;
    next_properties = (properties_t)next_lookup(*instance, "vkGetPhysicalDeviceProperties");
    next_properties2 = (properties2_t)next_lookup(*instance, "vkGetPhysicalDeviceProperties2");
    if (next_properties2 == NULL)
        next_properties2 = (properties2_t)next_lookup(*instance, "vkGetPhysicalDeviceProperties2KHR");
    next_extensions = (extensions_t)next_lookup(*instance, "vkEnumerateDeviceExtensionProperties");
    return SUCCESS;
}

static int lost(void) {
    const char *path = getenv("SHARDWRIGHT_STAND_IN_LOST");
    return !disguised() && path != NULL && access(path, F_OK) == 0;
}

static int stand_in_submit(void *queue, uint32_t count, const void *submits, void *fence) {
    return lost() ? DEVICE_LOST : next_submit(queue, count, submits, fence);
}

static function_t stand_in_device_lookup(void *device, const char *name) {
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (function_t)stand_in_device_lookup;
    if (strcmp(name, "vkQueueSubmit") == 0) return (function_t)stand_in_submit;
    return next_device_lookup == NULL ? NULL : next_device_lookup(device, name);
}

static int stand_in_create_device(void *card, struct device_create_info *info, const void *allocator, void **device) {
    struct device_layer_info *layer = info->next;
    while (layer != NULL && !(layer->type == LOADER_DEVICE_CREATE_INFO && layer->function == LAYER_LINK_INFO))
        layer = layer->next;
    if (layer == NULL) return NOT_INITIALISED;
    create_device_t next = (create_device_t)layer->link->instance(own_instance, "vkCreateDevice");
    next_device_lookup = layer->link->device;
    layer->link = layer->link->next;
    int code = next == NULL ? NOT_INITIALISED : next(card, info, allocator, device);
    if (code == SUCCESS) next_submit = (submit_t)next_device_lookup(*device, "vkQueueSubmit");
    return code;
}

static function_t stand_in_lookup(void *instance, const char *name) {
    static const struct { const char *name; function_t function; } own[] = {
        {"vkGetInstanceProcAddr", (function_t)stand_in_lookup},
        {"vkCreateInstance", (function_t)stand_in_create},
        {"vkCreateDevice", (function_t)stand_in_create_device},
        {"vkGetDeviceProcAddr", (function_t)stand_in_device_lookup},
        {"vkGetPhysicalDeviceProperties", (function_t)stand_in_properties},
        {"vkGetPhysicalDeviceProperties2", (function_t)stand_in_properties2},
        {"vkGetPhysicalDeviceProperties2KHR", (function_t)stand_in_properties2},
        {"vkEnumerateDeviceExtensionProperties", (function_t)stand_in_extensions},
    };
    for (size_t place = 0; place < sizeof own / sizeof *own; place++)
        if (strcmp(own[place].name, name) == 0) return own[place].function;
    return next_lookup == NULL ? NULL : next_lookup(instance, name);
}

EXPORTED int vkNegotiateLoaderLayerInterfaceVersion(struct negotiation *offered) {
    if (offered->version < 2) return NOT_INITIALISED;
    offered->version = 2;
    offered->instance = stand_in_lookup;
    offered->device = stand_in_device_lookup;
    offered->physical = NULL;
    return SUCCESS;
}
