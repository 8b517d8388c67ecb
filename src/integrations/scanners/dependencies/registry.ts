import semver from 'semver';
import { createOutboundFetch } from '#kernel/outbound-fetch.ts';
import { createOutboundPolicy } from '#kernel/outbound.ts';
import { severityOfWord, type Answer, type Match } from './advisories.ts';
import type { LockedPackage } from './locks.ts';

const timeoutMs = 30_000;
const maxBytes = 32 * 1_048_576;
/** Packages of one question. */
const batch = 1000;

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * Asks an npm registry for the advisories on packages, as `npm audit` does. It learns which packages are used, in which
 * versions, and not by whom.
 * @param options `url`: of the registry, which the operator configured, so that it may be in a private network
 * @throws Error when it gives no answer that can be used
 * @see https://api-docs.npmjs.com the bulk advisory endpoint
 */
export async function askRegistry(
  options: { readonly url: string; readonly allowLoopback: boolean },
  packages: readonly LockedPackage[],
): Promise<Answer> {
  const fetch = createOutboundFetch({
    policy: createOutboundPolicy({ allowLoopback: options.allowLoopback, allowPrivate: true }),
    timeoutMs,
    maxBytes,
  });
  const names = [...Map.groupBy(packages, ({ name }) => name)];
  const matches: Match[] = [];
  for (let from = 0; from < names.length; from += batch) {
    const part = new Map(names.slice(from, from + batch));
    const answer = await fetch(`${options.url}/-/npm/v1/security/advisories/bulk`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify(
        Object.fromEntries([...part].map(([name, all]) => [name, all.map(({ version }) => version)])),
      ),
    });
    if (answer.status !== 200)
      throw new Error(`The registry answered ${answer.status} when it was asked for advisories.`);
    const told: unknown = await answer.json();
    if (!isRecord(told)) throw new Error('The registry gave no advisories that can be read.');
    for (const [name, advisories] of Object.entries(told)) {
      for (const advisory of Array.isArray(advisories) ? advisories.filter(isRecord) : []) {
        for (const pkg of part.get(name) ?? []) {
          const match = matchOf(advisory, pkg);
          if (match) matches.push(match);
        }
      }
    }
  }
  return {
    database: { name: `Advisories of the registry ${new URL(options.url).host}`, date: new Date().toISOString() },
    matches,
    notes: [],
    cut: null,
  };
}

function matchOf(advisory: Record<string, unknown>, pkg: LockedPackage): Match | null {
  const { vulnerable_versions: range, url, title, severity } = advisory;
  if (typeof range !== 'string') throw new Error('The registry gave an advisory without versions.');
  if (!semver.satisfies(pkg.version, range, { loose: true, includePrerelease: true })) return null;
  const link = typeof url === 'string' ? url : '';
  return {
    pkg,
    id: /GHSA(?:-[0-9a-z]{4}){3}/i.exec(link)?.[0] ?? `npm-${String(advisory['id'])}`,
    url: link,
    title: typeof title === 'string' ? title : 'Known vulnerability',
    severity: severityOfWord(severity) ?? 'MEDIUM',
    fixedVersion: null,
  };
}
