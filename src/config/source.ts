import { z } from 'zod';
import { folder, optional, setting, webUrl } from './kit.ts';

const variableNames = z
  .string()
  .transform((text) => text.split(',').map((name) => name.trim()))
  .refine(
    (names) => names.every((name) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name)),
    'must be names of variables, comma-separated',
  );

/** The source of what is deployed: its scan, its build. */
export const source = {
  SWITCHYARD_ADVISORIES: optional({
    group: 'Deployments',
    description:
      'Advisories in the OSV format that dependencies are looked up in: a folder of .json files, or a .zip, .jsonl or .json file. docs/security-scan.md tells how to fetch them.',
    example: '/var/lib/switchyard/osv-npm.zip',
    schema: folder,
  }),
  SWITCHYARD_ADVISORY_REGISTRY: optional({
    group: 'Deployments',
    description:
      'npm registry that is asked for advisories on dependencies, as `npm audit` does: it learns names and versions of packages.',
    example: 'https://registry.example.com',
    schema: webUrl,
  }),
  SWITCHYARD_TRIVY: setting({
    group: 'Deployments',
    description:
      'Also scan what is deployed with the program trivy of PATH: auto where it is installed, on (a worker without it does not start, and a deployment that it did not scan fails), off.',
    default: 'auto',
    example: 'on',
    schema: z.enum(['auto', 'on', 'off'], 'must be auto, on or off'),
  }),
  SWITCHYARD_BUILD_VARIABLES: optional({
    group: 'Deployments',
    description:
      'Names, comma-separated, of this server’s own environment variables that builds are given, for instance where a package registry and its certificates are. No other variable reaches an application.',
    example: 'NPM_CONFIG_REGISTRY,NODE_EXTRA_CA_CERTS',
    schema: variableNames,
  }),
} as const;
