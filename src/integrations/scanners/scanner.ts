import { createHmac } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { findPackageJSON } from 'node:module';
import { severities, type Severity } from '#kernel/severity.ts';
import type { Source } from './source.ts';

export const scannerNames = ['SECRETS', 'DEPENDENCIES', 'DOCKERFILE', 'TRIVY'] as const;
export type ScannerName = (typeof scannerNames)[number];

/**
 * What a scanner did. RAN: it looked at everything that it covers. PARTIAL: a part was left out. NOT_RUN: it could not
 * begin. FAILED: it did not come to an end. OFF: the operator wants no part of it.
 */
export type ScannerStatus = 'RAN' | 'PARTIAL' | 'NOT_RUN' | 'FAILED' | 'OFF';

/** What may be wrong, without anything that must not be shown: never a secret, never a part of one. */
export interface Finding {
  readonly severity: Severity;
  readonly rule: string;
  readonly title: string;
  /** In the repository. */
  readonly file: string | null;
  /** From 1. */
  readonly line: number | null;
  readonly packageName: string | null;
  readonly installedVersion: string | null;
  readonly fixedVersion: string | null;
  readonly advisoryId: string | null;
  readonly advisoryUrl: string | null;
  /** The same for the same thing in every commit of an application: 64 hexadecimal digits. */
  readonly fingerprint: string;
}

/** What a finding is known by. `identity` may be secret: nothing but a keyed hash of it leaves the scanner. */
export type RawFinding = Pick<Finding, 'severity' | 'rule' | 'title'> &
  Partial<Omit<Finding, 'fingerprint'>> & { readonly identity: readonly (string | null)[] };

export interface Database {
  readonly name: string;
  /** Of its newest entry, or of when it was asked, ISO 8601; null: it does not say. */
  readonly date: string | null;
}

export interface Report {
  readonly scanner: ScannerName;
  readonly status: ScannerStatus;
  /** Why it is not RAN; null: it is. */
  readonly reason: string | null;
  /** Program or library with its version; null: there is none. */
  readonly version: string | null;
  readonly database: Database | null;
  /** What it looks at, and what it does not. */
  readonly covers: string;
  /** What was skipped, and whatever else is worth knowing about this run. */
  readonly notes: readonly string[];
  readonly findings: readonly Finding[];
}

/** What one scanner found. */
export interface Outcome {
  readonly status: 'RAN' | 'PARTIAL' | 'NOT_RUN';
  readonly reason?: string;
  readonly version: string | null;
  readonly database?: Database;
  readonly notes?: readonly string[];
  readonly findings?: readonly RawFinding[];
}

/** Looks through a checkout. It runs in a thread of its own, which is ended when nobody waits for it any more. */
export interface Scanner {
  readonly name: ScannerName;
  /** @throws whatever keeps it from coming to an end */
  scan(source: Source): Promise<Outcome>;
}

/** Findings of one scanner that are kept: the worst ones. */
const maxFindings = 1000;

/**
 * The report of a scanner that came to an end.
 * @param key that fingerprints are made with: they tell nobody who has not got it what was found
 */
export function reportOf(name: ScannerName, key: string, outcome: Outcome): Report {
  const byFingerprint = new Map<string, Finding>();
  for (const { identity, ...raw } of outcome.findings ?? []) {
    const fingerprint = createHmac('sha256', key)
      .update(JSON.stringify([name, raw.rule, ...identity]))
      .digest('hex');
    if (byFingerprint.has(fingerprint)) continue; // the same thing, seen again
    byFingerprint.set(fingerprint, {
      severity: raw.severity,
      rule: plain(raw.rule, 200),
      title: plain(raw.title, 500),
      file: orNull(raw.file, 1024),
      line: raw.line ?? null,
      packageName: orNull(raw.packageName, 300),
      installedVersion: orNull(raw.installedVersion, 500),
      fixedVersion: orNull(raw.fixedVersion, 500),
      advisoryId: orNull(raw.advisoryId, 200),
      advisoryUrl: webUrl(raw.advisoryUrl),
      fingerprint,
    });
  }
  const all = [...byFingerprint.values()].toSorted(
    (a, b) => severities.indexOf(a.severity) - severities.indexOf(b.severity),
  );
  const cut = all.length > maxFindings;
  const notes = [...(outcome.notes ?? [])];
  if (cut) notes.push(`${all.length} findings, of which the ${maxFindings} worst are kept.`);
  return {
    scanner: name,
    status: cut && outcome.status === 'RAN' ? 'PARTIAL' : outcome.status,
    reason: outcome.reason ?? (cut ? 'There are more findings than are kept.' : null),
    version: outcome.version,
    database: outcome.database ?? null,
    covers: covers[name],
    notes: notes.slice(0, 50).map((one) => plain(one, 500)),
    findings: all.slice(0, maxFindings),
  };
}

/** The report of a scanner that found nothing out. */
export function noReport(scanner: ScannerName, status: 'NOT_RUN' | 'FAILED' | 'OFF', reason: string): Report {
  return {
    scanner,
    status,
    reason: plain(reason, 500),
    version: null,
    database: null,
    covers: covers[scanner],
    notes: [],
    findings: [],
  };
}

/** What each scanner looks at, and what it does not. */
export const covers: Readonly<Record<ScannerName, string>> = {
  SECRETS:
    'Keys and tokens of known forms in text files of the commit, up to 1 MiB each. Not: earlier commits, binary files, passwords without a known form.',
  DEPENDENCIES:
    'npm packages named by package-lock.json, npm-shrinkwrap.json, yarn.lock and pnpm-lock.yaml. Not: other ecosystems, packages from Git or URLs, packages copied into the repository, system packages of images, whether the code is reached.',
  DOCKERFILE: 'Dockerfiles and Containerfiles of the repository. Not: base images, and what a build downloads.',
  TRIVY:
    'What `trivy fs` finds in the checkout: vulnerable packages of many ecosystems, secrets, misconfigured Dockerfiles and Kubernetes manifests. Not: Terraform and Helm, packages without a lock file, base images.',
};

/** Text of a repository for one line of a log or a page: no control characters, nothing that turns its direction. */
export function plain(text: string, most: number): string {
  // oxlint-disable-next-line no-control-regex
  const clean = text.replaceAll(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+/g, ' ').trim();
  return (clean.length > most ? `${clean.slice(0, most - 1)}…` : clean).toWellFormed();
}

const orNull = (text: string | null | undefined, most: number): string | null => (text ? plain(text, most) : null);

/** Only an address that may become a link. */
function webUrl(text: string | null | undefined): string | null {
  const url = text && text.length <= 1024 ? URL.parse(text) : null;
  return url && /^https?:$/.test(url.protocol) && !url.username && !url.password ? url.href : null;
}

/** Name and version of an installed package. */
export async function versionOf(name: string): Promise<string> {
  const file = findPackageJSON(name, import.meta.url);
  const { version } = file ? (JSON.parse(await readFile(file, 'utf8')) as { version?: string }) : {};
  return `${name} ${version ?? '(unknown version)'}`;
}
