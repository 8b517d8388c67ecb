import type { Severity } from '#kernel/severity.ts';
import type { Database } from '../scanner.ts';
import type { LockedPackage } from './locks.ts';

/** An advisory that is about a version which is installed. */
export interface Match {
  readonly pkg: LockedPackage;
  readonly id: string;
  readonly url: string;
  readonly title: string;
  readonly severity: Severity;
  /** Least version above the installed one that is said to be good; null: none is told. */
  readonly fixedVersion: string | null;
}

export interface Answer {
  readonly database: Database;
  readonly matches: readonly Match[];
  readonly notes: readonly string[];
  /** Why something may be missing; null: nothing is. */
  readonly cut: string | null;
}

/** The qualitative words of GitHub, npm and CVSS. @returns null for any other word */
export function severityOfWord(word: unknown): Severity | null {
  switch (String(word).toUpperCase()) {
    case 'CRITICAL':
      return 'CRITICAL';
    case 'HIGH':
      return 'HIGH';
    case 'MODERATE':
    case 'MEDIUM':
      return 'MEDIUM';
    case 'LOW':
      return 'LOW';
    case 'INFO':
    case 'NONE':
      return 'INFO';
    default:
      return null;
  }
}

const weights: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  AV: { N: 0.85, A: 0.62, L: 0.55, P: 0.2 },
  AC: { L: 0.77, H: 0.44 },
  UI: { N: 0.85, R: 0.62 },
  C: { H: 0.56, L: 0.22, N: 0 },
  I: { H: 0.56, L: 0.22, N: 0 },
  A: { H: 0.56, L: 0.22, N: 0 },
};
const privileges = { U: { N: 0.85, L: 0.62, H: 0.27 }, C: { N: 0.85, L: 0.68, H: 0.5 } } as const;

/**
 * The severity of a CVSS vector of version 3.0 or 3.1, from its base score.
 * @returns null when it is none
 * @see https://www.first.org/cvss/v3.1/specification-document sections 5 and 7.1
 */
export function severityOfVector(vector: string): Severity | null {
  if (!/^CVSS:3\.[01]\//.test(vector)) return null;
  const metrics = new Map(vector.split('/').map((part) => part.split(':') as [string, string]));
  const weight = (metric: string): number => weights[metric]?.[metrics.get(metric) ?? ''] ?? Number.NaN;
  const scope = metrics.get('S');
  if (scope !== 'U' && scope !== 'C') return null;
  const privilege = privileges[scope][metrics.get('PR') as 'N'] ?? Number.NaN;
  const lost = 1 - (1 - weight('C')) * (1 - weight('I')) * (1 - weight('A'));
  const impact = scope === 'U' ? 6.42 * lost : 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02) ** 15;
  const exploitability = 8.22 * weight('AV') * weight('AC') * privilege * weight('UI');
  if (Number.isNaN(impact + exploitability)) return null;
  const sum = (scope === 'U' ? 1 : 1.08) * (impact + exploitability);
  const score = impact <= 0 ? 0 : Math.ceil(Math.min(sum, 10) * 10 - 1e-9) / 10;
  if (score >= 9) return 'CRITICAL';
  if (score >= 7) return 'HIGH';
  if (score >= 4) return 'MEDIUM';
  return score > 0 ? 'LOW' : 'INFO';
}
