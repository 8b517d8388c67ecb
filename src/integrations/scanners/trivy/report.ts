import { z } from 'zod';
import type { Severity } from '#kernel/severity.ts';
import type { RawFinding } from '../scanner.ts';

/** The version of Trivy's report that is read; it is Trivy's own `SchemaVersion`. */
export const schemaVersion = 2;

/** Trivy's `UNKNOWN` is a vulnerability that nobody has rated. */
const severity = z.string().transform((word): Severity => {
  switch (word) {
    case 'CRITICAL':
    case 'HIGH':
    case 'MEDIUM':
    case 'LOW':
      return word;
    default:
      return 'INFO';
  }
});
const text = z.string().nullish();
const list = <T extends z.ZodType>(one: T) => z.array(one).nullish();

/** What is used of it: unknown fields are let pass, as versions add some. `Results` is absent when there are none. */
const Document = z.object({
  SchemaVersion: z.literal(schemaVersion),
  Results: list(
    z.object({
      Target: z.string(),
      Vulnerabilities: list(
        z.object({
          VulnerabilityID: z.string(),
          PkgName: z.string(),
          InstalledVersion: text,
          FixedVersion: text,
          Severity: severity,
          Title: text,
          PrimaryURL: text,
        }),
      ),
      Misconfigurations: list(
        z.object({
          ID: z.string(),
          Title: text,
          Severity: severity,
          Status: text,
          PrimaryURL: text,
          CauseMetadata: z.object({ StartLine: z.int().nullish() }).nullish(),
        }),
      ),
      Secrets: list(
        z.object({ RuleID: z.string(), Severity: severity, Title: text, StartLine: z.int().nullish(), Match: text }),
      ),
    }),
  ),
});

/** The text is no report of that version. */
export class TrivyReportUnreadable extends Error {}

/**
 * Findings of a report of `trivy fs --format json`.
 * @throws {TrivyReportUnreadable}
 * @see https://trivy.dev/docs/latest/configuration/reporting/#json
 */
export function findingsOf(report: string): RawFinding[] {
  let json: unknown;
  try {
    json = JSON.parse(report);
  } catch {
    throw new TrivyReportUnreadable('Trivy gave no JSON.');
  }
  const read = Document.safeParse(json);
  if (!read.success) {
    const where = read.error.issues[0]?.path.join('.') ?? '';
    throw new TrivyReportUnreadable(`Trivy gave no report of version ${schemaVersion}${where ? `: ${where}` : ''}.`);
  }
  return (read.data.Results ?? []).flatMap((result): RawFinding[] => {
    const file = result.Target;
    return [
      ...(result.Vulnerabilities ?? []).map((one) => ({
        severity: one.Severity,
        rule: one.VulnerabilityID,
        title: one.Title ?? one.VulnerabilityID,
        file,
        packageName: one.PkgName,
        installedVersion: one.InstalledVersion ?? null,
        fixedVersion: one.FixedVersion ?? null,
        advisoryId: one.VulnerabilityID,
        advisoryUrl: one.PrimaryURL ?? null,
        identity: [file, one.PkgName],
      })),
      ...(result.Misconfigurations ?? [])
        // With --include-non-failures it tells of those that passed, too.
        .filter(({ Status }) => Status == null || Status === 'FAIL')
        .map((one) => ({
          severity: one.Severity,
          rule: one.ID,
          title: one.Title ?? one.ID,
          file,
          line: one.CauseMetadata?.StartLine || null,
          advisoryId: one.ID,
          advisoryUrl: one.PrimaryURL ?? null,
          identity: [file],
        })),
      ...(result.Secrets ?? []).map((one) => ({
        severity: one.Severity,
        rule: one.RuleID,
        title: `${one.Title ?? one.RuleID} in the source`,
        file,
        line: one.StartLine || null,
        // Trivy has masked it; what is around it tells two of a file apart.
        identity: [file, one.Match ?? null],
      })),
    ];
  });
}

const About = z.object({
  Version: z.string(),
  VulnerabilityDB: z.object({ Version: z.number().nullish(), UpdatedAt: text }).nullish(),
});

/** What `trivy version --format json` tells. @throws {TrivyReportUnreadable} */
export function aboutOf(output: string): { readonly version: string; readonly databaseDate: string | null } {
  try {
    const { Version, VulnerabilityDB } = About.parse(JSON.parse(output));
    const date = Date.parse(VulnerabilityDB?.UpdatedAt ?? '');
    // Year 1 is Go's word for never.
    return { version: `Trivy ${Version}`, databaseDate: date > 0 ? new Date(date).toISOString() : null };
  } catch {
    throw new TrivyReportUnreadable('Trivy does not tell its version as JSON.');
  }
}
