import { enableCompileCache } from 'node:module';
import { fileURLToPath } from 'node:url';

/**
 * Where Node keeps what it compiled, for the next start: beside the packages, which are as trusted as the code itself.
 * In the folder for temporary files, Node's default, another user of the machine could put code there for this one.
 * Where it cannot be written, nothing is kept.
 */
export const compileCacheDir = fileURLToPath(new URL('../../node_modules/.cache/switchyard', import.meta.url));

/** To be called before anything is loaded that takes time to compile. */
export const keepCompiled = (): void => void enableCompileCache(compileCacheDir);
