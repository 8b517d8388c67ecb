import { parseSyml } from '@yarnpkg/parsers';

/** A package that a lock file would have installed from a registry. */
export interface LockedPackage {
  readonly name: string;
  readonly version: string;
}

/** What a lock file says. */
export interface Lock {
  readonly packages: readonly LockedPackage[];
  /** Entries that come from elsewhere: Git, URLs, folders. Nothing is known about those. */
  readonly elsewhere: number;
}

/** The file is no lock file that this understands. */
export class LockUnreadable extends Error {}

export const isLock = (name: string): boolean => name in parsers;

/** @throws {LockUnreadable} */
export function parseLock(fileName: string, text: string): Lock {
  const parse = parsers[fileName];
  if (!parse) throw new Error(`${fileName} is no lock file`);
  const found = new Map<string, LockedPackage>();
  let elsewhere = 0;
  for (const one of parse(text)) {
    if (one === null) elsewhere += 1;
    else if (isName(one.name) && one.version.length <= 256) found.set(`${one.name}@${one.version}`, one);
    else elsewhere += 1;
  }
  return { packages: [...found.values()], elsewhere };
}

type Entries = Iterable<LockedPackage | null>;

const parsers: Readonly<Record<string, (text: string) => Entries>> = Object.assign(Object.create(null), {
  'package-lock.json': npm,
  'npm-shrinkwrap.json': npm,
  'yarn.lock': yarn,
  'pnpm-lock.yaml': pnpm,
});

/** Also old names, with capitals. @see https://docs.npmjs.com/cli/configuring-npm/package-json#name */
const isName = (name: string): boolean =>
  /^(?:@[a-z0-9~_][\w.~-]*\/)?[\w~!'()*][\w.~!'()*-]*$/i.test(name) && name.length <= 214;

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const text = (value: unknown): string | null => (typeof value === 'string' && value !== '' ? value : null);

/** Folders nest as deep as a chain of dependencies with conflicts; a file may say anything. */
const maxDepth = 200;

/** @see https://docs.npmjs.com/cli/configuring-npm/package-lock-json versions 1 to 3 */
function* npm(source: string): Entries {
  let lock: unknown;
  try {
    lock = JSON.parse(source);
  } catch {
    throw new LockUnreadable('it is not JSON');
  }
  if (!isRecord(lock)) throw new LockUnreadable('it is not an object');
  const { packages, dependencies, lockfileVersion } = lock;
  if (isRecord(packages)) {
    for (const [where, entry] of Object.entries(packages)) {
      const at = where.lastIndexOf('node_modules/');
      // The project itself, and its workspaces.
      if (at < 0 || !isRecord(entry) || entry['link'] === true) continue;
      // An alias says what it really is.
      const name = text(entry['name']) ?? where.slice(at + 'node_modules/'.length);
      const version = text(entry['version']);
      const resolved = text(entry['resolved']);
      yield version && !isElsewhere(resolved) ? { name, version } : null;
    }
  } else if (isRecord(dependencies)) {
    yield* nested(dependencies, 0);
  } else if (typeof lockfileVersion !== 'number') {
    throw new LockUnreadable('it has neither packages nor dependencies');
  }
}

function* nested(dependencies: Record<string, unknown>, depth: number): Entries {
  if (depth > maxDepth) throw new LockUnreadable(`it nests deeper than ${maxDepth}`);
  for (const [name, entry] of Object.entries(dependencies)) {
    if (!isRecord(entry)) continue;
    const version = text(entry['version']) ?? '';
    const alias = /^npm:(.+)@([^@]+)$/.exec(version);
    if (alias?.[1] && alias[2]) yield { name: alias[1], version: alias[2] };
    else yield /^\d/.test(version) ? { name, version } : null;
    if (isRecord(entry['dependencies'])) yield* nested(entry['dependencies'], depth + 1);
  }
}

const isElsewhere = (resolved: string | null): boolean => resolved !== null && /^(?:git|file:|github:)/.test(resolved);

function syml(source: string): Record<string, unknown> {
  try {
    const parsed: unknown = parseSyml(source);
    if (isRecord(parsed)) return parsed;
  } catch {
    // Its message quotes the file.
  }
  throw new LockUnreadable('it is not what its program writes');
}

/** Versions 1 and later. @see https://yarnpkg.com/configuration/manifest */
function* yarn(source: string): Entries {
  for (const [key, entry] of Object.entries(syml(source))) {
    if (key === '__metadata' || !isRecord(entry)) continue;
    const version = text(entry['version']);
    const resolution = text(entry['resolution']);
    if (resolution !== null) {
      // `name@npm:version`; a patched package is what it patches, and workspaces and links are the project's own.
      const real = /^(.+?)@(?:patch:.*?@npm%3A|npm:)(\d[^#:]*)/.exec(resolution);
      if (real?.[1] && real[2]) yield { name: real[1], version: real[2] };
      else if (!/@(?:workspace|link|portal):/.test(resolution)) yield null;
      continue;
    }
    const asked = key.split(', ')[0] ?? '';
    const at = asked.indexOf('@', 1);
    const range = asked.slice(at + 1);
    const alias = /^npm:(.+)@[^@]*$/.exec(range)?.[1];
    const registry = !/^(?:git|file:|link:|https?:|github:)/.test(range);
    yield version && at > 0 && registry ? { name: alias ?? asked.slice(0, at), version } : null;
  }
}

/** Versions 5 to 9: `/name/1.0.0`, `/name@1.0.0(peer@2.0.0)`, `name@1.0.0`. @see https://github.com/pnpm/spec */
function* pnpm(source: string): Entries {
  const lock = syml(source);
  if (!text(lock['lockfileVersion'])) throw new LockUnreadable('it has no version');
  const { packages } = lock;
  if (!isRecord(packages)) return;
  for (const key of Object.keys(packages)) {
    const bare = key.replace(/^\//, '').replace(/\(.*$/, '');
    const real = /^((?:@[^/@]+\/)?[^/@]+)[@/](\d[^/_@]*)/.exec(bare);
    yield real?.[1] && real[2] ? { name: real[1], version: real[2] } : null;
  }
}
