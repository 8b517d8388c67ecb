import { createReadStream } from 'node:fs';
import { opendir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import semver from 'semver';
import type { Severity } from '#kernel/severity.ts';
import { severityOfVector, severityOfWord, type Answer, type Match } from './advisories.ts';
import type { LockedPackage } from './locks.ts';

/** One advisory; longer ones are refused. */
const maxEntryBytes = 8 * 1_048_576;
/** The API's own form, for links. */
const pageOf = (id: string): string => `https://osv.dev/vulnerability/${encodeURIComponent(id)}`;

/**
 * Looks packages up in advisories in the OSV format: a folder of .json files, a .zip of them as osv.dev gives it, a .json
 * file (one advisory or a list), or a .jsonl file. It is read anew each time, one advisory after the other, so that its
 * size costs time and no memory.
 * @throws Error when it cannot be read, or holds no advisory for npm
 * @see https://ossf.github.io/osv-schema/
 */
export async function askOsv(file: string, packages: readonly LockedPackage[]): Promise<Answer> {
  const installed = Map.groupBy(packages, ({ name }) => name);
  const matches: Match[] = [];
  let newest = '';
  let entries = 0;
  let unreadable = 0;
  for await (const text of advisoriesIn(file)) {
    // Most are about other packages: they are not worth being parsed.
    const modified = /"modified"\s*:\s*"([^"]{10,40})"/.exec(text)?.[1];
    if (!modified || !/"ecosystem"\s*:\s*"npm"/.test(text)) {
      if (!modified) unreadable += 1;
      continue;
    }
    entries += 1;
    if (modified > newest) newest = modified;
    const about = [...text.matchAll(/"name"\s*:\s*"([^"\\]{1,214})"/g)].some(([, name]) => installed.has(name ?? ''));
    if (!about) continue;
    let advisory: unknown;
    try {
      advisory = JSON.parse(text);
    } catch {
      unreadable += 1;
      continue;
    }
    if (isRecord(advisory)) matches.push(...matchesOf(advisory, installed));
  }
  // Nothing was looked up in a database that has nothing.
  if (entries === 0) throw new Error('The database has no OSV advisory for npm.');
  return {
    database: {
      name: `OSV, ${entries} advisories for npm`,
      date: isDate(newest) ? new Date(newest).toISOString() : null,
    },
    matches,
    notes: unreadable > 0 ? [`${unreadable} entries of the database are no advisories.`] : [],
    cut: null,
  };
}

const isDate = (text: string): boolean => !Number.isNaN(Date.parse(text));
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const records = (value: unknown): Record<string, unknown>[] => (Array.isArray(value) ? value.filter(isRecord) : []);

function matchesOf(
  advisory: Record<string, unknown>,
  installed: ReadonlyMap<string, readonly LockedPackage[]>,
): Match[] {
  if (advisory['withdrawn'] !== undefined || typeof advisory['id'] !== 'string') return [];
  const id = advisory['id'];
  const title = typeof advisory['summary'] === 'string' && advisory['summary'] ? advisory['summary'] : id;
  const found = new Map<LockedPackage, Match>();
  for (const affected of records(advisory['affected'])) {
    const about = isRecord(affected['package']) ? affected['package'] : {};
    if (about['ecosystem'] !== 'npm') continue;
    for (const pkg of installed.get(String(about['name'])) ?? []) {
      const fixedVersion = isAffected(affected, pkg.version);
      if (fixedVersion === false || found.has(pkg)) continue;
      found.set(pkg, { pkg, id, url: pageOf(id), title, severity: severityOf(advisory, affected), fixedVersion });
    }
  }
  return [...found.values()];
}

function severityOf(advisory: Record<string, unknown>, affected: Record<string, unknown>): Severity {
  for (const { database_specific: more } of [affected, advisory]) {
    const word = isRecord(more) ? severityOfWord(more['severity']) : null;
    if (word) return word;
  }
  for (const { type, score } of [...records(affected['severity']), ...records(advisory['severity'])]) {
    const found = type === 'CVSS_V3' && typeof score === 'string' ? severityOfVector(score) : null;
    if (found) return found;
  }
  // Malicious packages have no score; of the others, none is told.
  return String(advisory['id']).startsWith('MAL-') ? 'CRITICAL' : 'MEDIUM';
}

/**
 * Whether a version is affected, and what fixes it.
 * @returns false: it is not; null: it is, and no fix is told; else the version that fixes it
 * @see https://ossf.github.io/osv-schema/#evaluation
 */
export function isAffected(affected: Record<string, unknown>, version: string): string | null | false {
  const installed = semver.parse(version, { loose: true });
  const listed = Array.isArray(affected['versions']) && affected['versions'].includes(version);
  let hit = listed;
  let fix: semver.SemVer | null = null;
  for (const range of records(affected['ranges'])) {
    if (!installed || (range['type'] !== 'SEMVER' && range['type'] !== 'ECOSYSTEM')) continue;
    const events = records(range['events'])
      .flatMap((event) =>
        (['introduced', 'fixed', 'last_affected', 'limit'] as const).flatMap((kind) => {
          const at = event[kind];
          if (typeof at !== 'string') return [];
          const parsed = semver.parse(at === '0' ? '0.0.0-0' : at, { loose: true });
          return parsed ? [{ kind, at: parsed }] : [];
        }),
      )
      .toSorted((a, b) => semver.compare(a.at, b.at));
    let inside = false;
    for (const { kind, at } of events) {
      const order = semver.compare(installed, at);
      if (kind === 'introduced' && order >= 0) inside = true;
      else if ((kind === 'fixed' || kind === 'limit') && order >= 0) inside = false;
      else if (kind === 'last_affected' && order > 0) inside = false;
    }
    if (!inside) continue;
    hit = true;
    const after = events.find(({ kind, at }) => kind === 'fixed' && semver.gt(at, installed))?.at;
    if (after && (!fix || semver.lt(after, fix))) fix = after;
  }
  return hit ? (fix?.version ?? null) : false;
}

async function* advisoriesIn(file: string): AsyncGenerator<string> {
  const found = await stat(file);
  if (found.isDirectory()) {
    for await (const entry of await opendir(file, { recursive: true })) {
      if (!entry.isFile() || !entry.name.endsWith('.json')) continue;
      const name = path.join(entry.parentPath, entry.name);
      if ((await stat(name)).size <= maxEntryBytes) yield await readFile(name, 'utf8');
    }
  } else if (file.endsWith('.zip')) {
    yield* zipped(file);
  } else if (file.endsWith('.jsonl')) {
    yield* createInterface({ input: createReadStream(file), crlfDelay: Infinity });
  } else {
    if (found.size > 256 * 1_048_576)
      throw new Error('The database is longer than 256 MiB: give it as .jsonl or .zip.');
    const parsed: unknown = JSON.parse(await readFile(file, 'utf8'));
    for (const one of Array.isArray(parsed) ? parsed : [parsed]) yield JSON.stringify(one);
  }
}

async function* zipped(file: string): AsyncGenerator<string> {
  const { openPromise } = await import('yauzl');
  const zip = await openPromise(file, { autoClose: false, lazyEntries: true });
  try {
    for await (const entry of zip.eachEntry()) {
      if (!entry.fileName.endsWith('.json') || entry.uncompressedSize > maxEntryBytes) continue;
      yield await textOf(await zip.openReadStreamPromise(entry));
    }
  } finally {
    zip.close();
  }
}

async function textOf(stream: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}
