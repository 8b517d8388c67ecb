// @ts-check
// Removes from node_modules what the server does not load: for the container image, after everything was installed.
// `npm prune` keeps optional peers (Prisma's command line and a hundred packages below it) and, told to omit optional
// packages, would remove the native parts of others. So this walks from "dependencies" and keeps what it reaches.
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';

/** @typedef {Record<string, string> | undefined} Names */
/** @typedef {{ dependencies?: Names, optionalDependencies?: Names, peerDependencies?: Names,
 *   peerDependenciesMeta?: Record<string, { optional?: boolean }> }} Manifest */

const root = process.cwd();

/** @param {string} folder @returns {Manifest} */
const manifestOf = (folder) => JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));

/** Where Node finds a package from a folder. @param {string} from @param {string} name */
function find(from, name) {
  for (let at = from; at.startsWith(root); at = path.dirname(at)) {
    const folder = path.join(at, 'node_modules', name);
    if (existsSync(path.join(folder, 'package.json'))) return folder;
  }
  return null;
}

/** @type {Set<string>} */
const kept = new Set();
/** @type {{ from: string, name: string }[]} */
const peers = [];

/** @param {string} from @param {Names} names @param {boolean} needed */
function keep(from, names, needed) {
  for (const name of Object.keys(names ?? {})) {
    const folder = find(from, name);
    if (!folder && needed) throw new Error(`${from} needs ${name}, which is not installed`);
    if (!folder || kept.has(folder)) continue;
    kept.add(folder);
    const manifest = manifestOf(folder);
    const optional = manifest.optionalDependencies ?? {};
    const dependencies = Object.entries(manifest.dependencies ?? {}).filter(([one]) => !(one in optional));
    keep(folder, Object.fromEntries(dependencies), true);
    keep(folder, optional, false);
    for (const peer of Object.keys(manifest.peerDependencies ?? {})) {
      if (!manifest.peerDependenciesMeta?.[peer]?.optional) peers.push({ from: folder, name: peer });
    }
  }
}

/** Every package below a node_modules. @param {string} modules @returns {string[]} */
function packagesIn(modules) {
  if (!existsSync(modules)) return [];
  return readdirSync(modules)
    .filter((name) => !name.startsWith('.'))
    .flatMap((name) =>
      name.startsWith('@')
        ? readdirSync(path.join(modules, name)).map((one) => path.join(modules, name, one))
        : [path.join(modules, name)],
    );
}

/** @param {string} modules */
function sweep(modules) {
  for (const folder of packagesIn(modules)) {
    const holds = [...kept].some((one) => one.startsWith(`${folder}${path.sep}`));
    if (!kept.has(folder) && !holds) {
      rmSync(folder, { recursive: true });
      const scope = path.dirname(folder);
      if (readdirSync(scope).length === 0) rmSync(scope, { recursive: true });
    } else sweep(path.join(folder, 'node_modules'));
  }
}

keep(root, manifestOf(root).dependencies, true);
sweep(path.join(root, 'node_modules'));
for (const name of ['.bin', '.package-lock.json'])
  rmSync(path.join(root, 'node_modules', name), { recursive: true, force: true });
for (const { from, name } of peers) {
  if (!find(from, name)) console.log(`left out: ${name}, a peer of ${path.relative(root, from)}`);
}
