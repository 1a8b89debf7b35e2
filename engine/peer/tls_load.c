/* SPDX-License-Identifier: BSD-3-Clause */
/* tls_load.c: finds the TLS module when the first link wants it. See tls.h. */
#include <dlfcn.h>
#include <errno.h>

#include "base/assert.h"
#include "engine/peer/tls.h"

#define TEXT(symbol) #symbol
#define NAME(symbol) TEXT(symbol)

#ifdef SLUICE_TLS_MODULE
int sluice_tls_load(const struct sluice_tls_module **ret_module, struct sluice_error *err)
{
	static const struct sluice_tls_module *module;
	void *library;

	if (module == NULL) {
		/* By name: it is looked for where this program's runpath says. */
		library = dlopen(SLUICE_TLS_MODULE, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
		if (library == NULL)
			return sluice_fail(err, -EOPNOTSUPP, "security",
				"encrypted peer links need OpenSSL: %s", dlerror());
		module = dlsym(library, NAME(SLUICE_TLS_MODULE_SYMBOL));
		SLUICE_ASSERT(module != NULL);
		SLUICE_ASSERT(module->abi == SLUICE_TLS_ABI && module->size == sizeof(*module));
	}
	*ret_module = module;
	return 0;
}
#else
int sluice_tls_load(const struct sluice_tls_module **ret_module, struct sluice_error *err)
{
	(void)ret_module;
	return sluice_fail(err, -EOPNOTSUPP, "security",
		"this build has no encrypted peer links: OpenSSL was missing when it was made; "
		"build it with libssl-dev, or do without psk-file");
}
#endif
