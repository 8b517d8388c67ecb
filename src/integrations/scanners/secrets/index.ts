import type { Severity } from '#kernel/severity.ts';
import { versionOf, type Outcome, type RawFinding, type Scanner } from '../scanner.ts';
import type { Source } from '../source.ts';

/** Longer files are data. */
const maxFileBytes = 1_048_576;
/** Of all files together. */
const maxBytes = 128 * 1_048_576;
const maxFindings = 5000;
/** A file with a zero byte here is taken for a binary one, as git does. */
const headBytes = 8000;

/** Lock files are full of checksums, and nobody writes into them. */
const noSource = /^(?:package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml)$/;

/** Where it is not HIGH. */
const severityOf: Readonly<Record<string, Severity>> = {
  AWSAccountID: 'LOW',
  AWSAccessKeyID: 'MEDIUM', // half of a pair
  AWSSecretAccessKey: 'CRITICAL',
  PrivateKey: 'CRITICAL',
  PrivateKeyP12: 'CRITICAL',
  PrivateKeyJSON: 'CRITICAL',
  GITHUB_TOKEN: 'CRITICAL',
  GITLAB_PERSONAL_ACCESS_TOKEN: 'CRITICAL',
  NPM_ACCESS_TOKEN: 'CRITICAL',
  STRIPE_SECRET_KEY_LIVE: 'CRITICAL',
  STRIPE_SECRET_KEY_TEST: 'LOW',
  STRIPE_RESTRICTED_KEY_TEST: 'LOW',
};

/**
 * Finds keys and tokens with the rules of Secretlint. Its comments that turn rules off are not obeyed: what is to be
 * ignored is suppressed, with a reason.
 * @see https://github.com/secretlint/secretlint
 */
export const secrets: Scanner = {
  name: 'SECRETS',
  async scan(source: Source): Promise<Outcome> {
    const [{ lintSource }, { rules }] = await Promise.all([
      import('@secretlint/core'),
      import('@secretlint/secretlint-rule-preset-recommend'),
    ]);
    const config = {
      rules: rules
        .filter(({ meta }) => meta.id !== '@secretlint/secretlint-rule-filter-comments')
        .map((rule) => ({ id: rule.meta.id, rule })),
    };
    const findings: RawFinding[] = [];
    const seen = { read: 0, binary: 0, long: 0, gone: 0, bytes: 0 };
    let cut = source.cut;
    for (const file of source.files) {
      if (noSource.test(file.name)) continue;
      if (seen.bytes > maxBytes || findings.length > maxFindings) {
        cut = `Only the first ${seen.read} files were looked at.`;
        break;
      }
      const content = await source.read(file, maxFileBytes);
      if (!content) {
        seen.gone += 1;
        continue;
      }
      if (content.bytes.subarray(0, headBytes).includes(0)) {
        seen.binary += 1;
        continue;
      }
      if (!content.complete) {
        seen.long += 1;
        continue;
      }
      seen.read += 1;
      seen.bytes += content.bytes.length;
      const text = content.bytes.toString('utf8');
      const dot = file.name.lastIndexOf('.');
      const { messages } = await lintSource({
        source: {
          filePath: `/${file.path}`,
          content: text,
          ext: dot < 0 ? '' : file.name.slice(dot),
          contentType: 'text',
        },
        options: { config, noPhysicFilePath: true, maskSecrets: true },
      });
      for (const { ruleId, messageId, message, range, loc } of messages) {
        findings.push({
          severity: severityOf[messageId] ?? 'HIGH',
          rule: `${ruleId.replace('@secretlint/secretlint-rule-', '')}/${messageId}`,
          // What stands before the first value; the values themselves are not for anybody's eyes.
          title: `${(/^found ([^:(*]+)/.exec(message)?.[1] ?? messageId).trim()} in the source`,
          file: file.path,
          line: loc.start.line,
          identity: [file.path, text.slice(...range)],
        });
      }
    }
    const notes = [
      `${seen.read} text files were read.`,
      ...(seen.binary > 0 ? [`${seen.binary} binary files were skipped.`] : []),
      ...(source.others > 0 ? [`${source.others} links were not followed.`] : []),
      ...(seen.long > 0 ? [`${seen.long} text files are longer than 1 MiB and were skipped.`] : []),
      ...(seen.gone > 0 ? [`${seen.gone} files could not be opened inside of the checkout.`] : []),
    ];
    const left = cut ?? (seen.long + seen.gone > 0 ? `${seen.long + seen.gone} text files were not looked at.` : null);
    return {
      status: left ? 'PARTIAL' : 'RAN',
      ...(left ? { reason: left } : {}),
      version: await versionOf('@secretlint/secretlint-rule-preset-recommend'),
      notes,
      findings,
    };
  },
};
