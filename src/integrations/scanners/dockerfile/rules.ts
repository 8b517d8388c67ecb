import { Add, Arg, Copy, DockerfileParser, Env, From, Run, User, Workdir, type Instruction } from 'dockerfile-ast';
import { validate, ValidationCode, ValidationSeverity } from 'dockerfile-utils';
import type { Severity } from '#kernel/severity.ts';
import type { RawFinding } from '../scanner.ts';

/** Names that say that their value is secret. */
const secretName =
  /(?:^|_)(?:PASSW(?:OR)?D|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)(?:_|$)/i;
/** Names that end like those and hold something else: where it lies, how long it is good. */
const noSecretName = /(?:_FILE|_PATH|_URL|_TTL|_NAME|_ID|_LENGTH|_EXPIRY)$/i;

/** Words for problems of syntax. The library's own quote the file, whose text may be a secret. */
const syntaxTitles: ReadonlyMap<unknown, string> = new Map([
  [ValidationCode.ARGUMENT_MISSING, 'An instruction has no argument'],
  [ValidationCode.ARGUMENT_EXTRA, 'An instruction has too many arguments'],
  [ValidationCode.ARGUMENT_REQUIRES_ONE, 'An instruction needs exactly one argument'],
  [ValidationCode.ARGUMENT_REQUIRES_AT_LEAST_ONE, 'An instruction needs at least one argument'],
  [ValidationCode.ARGUMENT_REQUIRES_TWO, 'An instruction needs two arguments'],
  [ValidationCode.ARGUMENT_REQUIRES_AT_LEAST_TWO, 'An instruction needs at least two arguments'],
  [ValidationCode.ARGUMENT_REQUIRES_ONE_OR_THREE, 'An instruction needs one argument or three'],
  [ValidationCode.ARGUMENT_UNNECESSARY, 'An instruction has an argument that it does not take'],
  [ValidationCode.DUPLICATE_BUILD_STAGE_NAME, 'Two build stages have the same name'],
  [ValidationCode.INVALID_BUILD_STAGE_NAME, 'The name of a build stage is not valid'],
  [ValidationCode.FLAG_AT_LEAST_ONE, 'The value of a flag is less than one'],
  [ValidationCode.FLAG_DUPLICATE, 'A flag is given twice'],
  [ValidationCode.FLAG_INVALID_DURATION, 'The duration of a flag is not valid'],
  [ValidationCode.FLAG_LESS_THAN_1MS, 'The duration of a flag is less than a millisecond'],
  [ValidationCode.FLAG_MISSING_DURATION, 'The duration of a flag is missing'],
  [ValidationCode.FLAG_MISSING_VALUE, 'A flag has no value'],
  [ValidationCode.FLAG_UNKNOWN_UNIT, 'The duration of a flag has an unknown unit'],
  [ValidationCode.INVALID_SYNTAX, 'The number of a flag is not valid'],
  [ValidationCode.FLAG_INVALID_FROM_VALUE, 'The value of a flag --from is not valid'],
  [ValidationCode.FLAG_EXPECTED_BOOLEAN_VALUE, 'The value of a flag is neither true nor false'],
  [ValidationCode.NO_SOURCE_IMAGE, 'There is no instruction FROM'],
  [ValidationCode.BASE_NAME_EMPTY, 'The variable that names the base image has no value'],
  [ValidationCode.INVALID_ESCAPE_DIRECTIVE, 'The escape character of the parser directive is not valid'],
  [ValidationCode.DUPLICATED_ESCAPE_DIRECTIVE, 'There are two parser directives for the escape character'],
  [ValidationCode.INVALID_AS, 'The second argument of FROM is not AS'],
  [ValidationCode.INVALID_DESTINATION, 'With several sources the destination has to end with a slash'],
  [ValidationCode.INVALID_PORT, 'A port is not valid'],
  [ValidationCode.INVALID_PROTO, 'The protocol of a port is not valid'],
  [ValidationCode.INVALID_REFERENCE_FORMAT, 'The reference of the base image is not valid'],
  [ValidationCode.INVALID_SIGNAL, 'A signal is not valid'],
  [ValidationCode.ONBUILD_CHAINING_DISALLOWED, 'ONBUILD cannot trigger ONBUILD'],
  [ValidationCode.ONBUILD_TRIGGER_DISALLOWED, 'ONBUILD cannot trigger this instruction'],
  [ValidationCode.SHELL_JSON_FORM, 'SHELL needs its arguments as JSON'],
  [ValidationCode.SHELL_REQUIRES_ONE, 'SHELL needs at least one argument'],
  [ValidationCode.JSON_IN_SINGLE_QUOTES, 'Arguments as JSON need double quotes'],
  [ValidationCode.SYNTAX_MISSING_EQUALS, 'A name and its value are not joined by an equals sign'],
  [ValidationCode.SYNTAX_MISSING_NAMES, 'A value has no name'],
  [ValidationCode.SYNTAX_MISSING_SINGLE_QUOTE, 'A single quote is missing'],
  [ValidationCode.SYNTAX_MISSING_DOUBLE_QUOTE, 'A double quote is missing'],
  [ValidationCode.MULTIPLE_INSTRUCTIONS, 'An instruction that counts once is given several times'],
  [ValidationCode.UNKNOWN_INSTRUCTION, 'Unknown instruction'],
  [ValidationCode.UNKNOWN_ADD_FLAG, 'Unknown flag of ADD'],
  [ValidationCode.UNKNOWN_COPY_FLAG, 'Unknown flag of COPY'],
  [ValidationCode.UNKNOWN_FROM_FLAG, 'Unknown flag of FROM'],
  [ValidationCode.UNKNOWN_HEALTHCHECK_FLAG, 'Unknown flag of HEALTHCHECK'],
  [ValidationCode.UNKNOWN_TYPE, 'Unknown type of HEALTHCHECK'],
  [ValidationCode.HEALTHCHECK_CMD_ARGUMENT_MISSING, 'HEALTHCHECK CMD has no command'],
  [ValidationCode.UNSUPPORTED_MODIFIER, 'A variable has a modifier that is not supported'],
]);

/**
 * Problems of a Dockerfile. Rules with the number of hadolint's mean what hadolint's mean; `SecretsUsedInArgOrEnv` is
 * BuildKit's; the others are this program's own.
 * @see https://github.com/hadolint/hadolint#rules
 * @see https://docs.docker.com/reference/build-checks/
 */
export function lint(file: string, text: string): RawFinding[] {
  const findings: RawFinding[] = [];
  const found = (severity: Severity, rule: string, title: string, line: number | null, about: string): void => {
    findings.push({ severity, rule, title, file, line, identity: [file, about.replaceAll(/\s+/g, ' ').trim()] });
  };
  const { IGNORE } = ValidationSeverity;
  for (const { code, message, range } of validate(text, {
    // Matters of style.
    directiveCasing: IGNORE,
    instructionCasing: IGNORE,
    emptyContinuationLine: IGNORE,
    instructionWorkdirRelative: IGNORE,
    deprecatedMaintainer: IGNORE,
  })) {
    const quoting = typeof message === 'string' ? message : message.value;
    const title = syntaxTitles.get(code) ?? 'The syntax is not valid';
    found('INFO', 'syntax', title, range.start.line + 1, quoting);
  }

  const instructions = DockerfileParser.parse(text).getInstructions();
  /** Stages by name, with the user that they end with. */
  const stages = new Map<string, string | null>();
  let stage: { readonly from: From; user: string | null; name: string | null } | null = null;
  for (const one of instructions) {
    const line = one.getRange().start.line + 1;
    const about = one.toString();
    if (one instanceof From) {
      stage = { from: one, name: one.getBuildStage()?.toLowerCase() ?? null, user: inherited(stages, one) };
      image(one, stages, (rule, title, severity) => found(severity, rule, title, line, about));
    } else if (one instanceof User && stage) {
      stage.user = one.getArguments()[0]?.getValue() ?? null;
    } else if (one instanceof Arg || one instanceof Env) {
      for (const property of one instanceof Env ? one.getProperties() : [one.getProperty()]) {
        const name = property?.getName() ?? '';
        if (!secretName.test(name) || noSecretName.test(name)) continue;
        const hasValue = Boolean(property?.getValue()) && !/^\$\{?\w+\}?$/.test(property?.getValue() ?? '');
        // The value stays in the image and in its history, where everybody reads it who has the image.
        found(
          hasValue ? 'HIGH' : 'MEDIUM',
          'SecretsUsedInArgOrEnv',
          `${one.getKeyword()} ${name} keeps a secret in the image; mount it as a build secret`,
          line,
          `${one.getKeyword()} ${name}`,
        );
      }
    } else if (one instanceof Add) {
      const sources = sourcesOf(one);
      if (sources.some((source) => /^(?:https?|ftp|git|ssh):\/\/|^git@/i.test(source))) {
        const checked = one.getFlags().some((flag) => flag.getName() === 'checksum');
        if (!checked) found('HIGH', 'add-url', 'ADD fetches a URL whose content nothing checks', line, about);
      } else if (!sources.some((source) => /\.(?:tar|tgz|gz|bz2|xz|zst)\b/i.test(source) || source.startsWith('<<'))) {
        found('LOW', 'DL3020', 'Use COPY instead of ADD for files and folders', line, about);
      }
    } else if (one instanceof Workdir) {
      const to = one.getArguments()[0]?.getValue() ?? '';
      if (to && !/^["']?(?:[/$]|[a-z]:)/i.test(to)) found('LOW', 'DL3000', 'Use an absolute WORKDIR', line, about);
    } else if (one instanceof Run) {
      for (const [severity, rule, title] of commandProblems(scriptOf(one))) found(severity, rule, title, line, about);
    }
    if (one instanceof Copy || one instanceof Add) {
      const secret = sourcesOf(one).find((source) =>
        /(?:^|\/)(?:\.env(?:\.(?!example|sample|template)[\w-]+)?|id_(?:rsa|dsa|ecdsa|ed25519)|\.npmrc|\.netrc|\.aws|\.ssh|[\w.-]+\.(?:pem|p12|pfx|key))\/?$/i.test(
          source,
        ),
      );
      if (secret)
        found('HIGH', 'copy-secret', 'A file that usually holds secrets is copied into the image', line, about);
    }
    if (one.getKeyword() === 'MAINTAINER') found('INFO', 'DL4000', 'MAINTAINER is deprecated', line, about);
    if (stage?.name) stages.set(stage.name, stage.user);
  }
  if (stage) {
    // What runs is the last stage. A base image may have set a user, which only the image tells.
    const line = stage.from.getRange().start.line + 1;
    const user = stage.user;
    if (user === null) {
      if (stage.from.getImage()?.toLowerCase() !== 'scratch')
        found(
          'LOW',
          'no-user',
          'No USER is set: it runs as root unless the base image says otherwise',
          line,
          'last stage',
        );
    } else if (/^(?:root|0)(?::|$)/.test(user)) {
      found('HIGH', 'DL3002', 'The last USER is root', line, 'last stage');
    }
  }
  return findings;
}

const inherited = (stages: ReadonlyMap<string, string | null>, from: From): string | null =>
  stages.get(from.getImage()?.toLowerCase() ?? '') ?? null;

function image(
  from: From,
  stages: ReadonlyMap<string, string | null>,
  found: (rule: string, title: string, severity: Severity) => void,
): void {
  const name = from.getImage() ?? '';
  if (name === '' || name.includes('$') || name.toLowerCase() === 'scratch' || stages.has(name.toLowerCase())) return;
  if (from.getImageDigest()) return;
  const tag = from.getImageTag();
  if (tag === null) found('DL3006', 'Tag the version of the base image', 'MEDIUM');
  else if (tag === 'latest') found('DL3007', 'The tag latest of the base image changes without notice', 'MEDIUM');
}

/** What is copied: all arguments but the last. */
function sourcesOf(one: Instruction): string[] {
  return one
    .getArguments()
    .slice(0, -1)
    .map((argument) => argument.getValue().replaceAll(/^[["',]+|["',\]]+$/g, ''));
}

/** The commands of a RUN as one text, its here-documents with it; continued lines are joined. */
const scriptOf = (run: Run): string =>
  run
    .toString()
    .replace(/^\s*RUN\s+/i, '')
    .replaceAll(/\\\r?\n/g, ' ');

/** Cut at what separates commands in a shell. It is a look, no shell: what is quoted may be cut, too. */
function commandProblems(script: string): readonly (readonly [Severity, string, string])[] {
  const problems: (readonly [Severity, string, string])[] = [];
  if (
    /\b(?:curl|wget)\b[^|\n;&]{0,2000}\|\s*(?:sudo\s+)?(?:env\s+)?(?:\/(?:usr\/)?bin\/)?(?:ba|da|z|a)?sh\b/.test(script)
  )
    problems.push(['HIGH', 'pipe-to-shell', 'What is downloaded is executed, and nothing checks it']);
  for (const command of script.slice(0, 65_536).split(/&&|\|\||[;|\n]/)) {
    const words = command
      .trim()
      .split(/\s+/)
      .filter((word) => !/^\w+=/.test(word));
    const [program = '', ...rest] = words;
    const packages = rest.filter(
      (word) => !word.startsWith('-') && word !== 'install' && word !== 'add' && word !== 'i',
    );
    const unpinned = (pinned: RegExp) => packages.some((one) => !pinned.test(one) && !/^[./$]|^https?:/.test(one));
    if (program === 'sudo') problems.push(['MEDIUM', 'DL3004', 'Do not use sudo: it hides which user does what']);
    if (/^(?:curl|wget)$/.test(program) && rest.some((word) => /^(?:-k|--insecure|--no-check-certificate)$/.test(word)))
      problems.push(['HIGH', 'tls-off', 'A download does not check whom it comes from']);
    if (program === 'apt-get' && rest.includes('install') && unpinned(/=/))
      problems.push(['LOW', 'DL3008', 'Pin versions in apt-get install']);
    if (program === 'apk' && rest.includes('add') && unpinned(/[=~<>]/))
      problems.push(['LOW', 'DL3018', 'Pin versions in apk add']);
    if (
      /^pip3?$/.test(program) &&
      rest.includes('install') &&
      !rest.some((word) => /^(?:-r|-e|--requirement|-c)/.test(word)) &&
      unpinned(/[=<>~@]=?/)
    )
      // prettier-ignore
      problems.push(['LOW', 'DL3013', 'Pin versions in pip install']);
    if (program === 'npm' && /^(?:install|i|add)$/.test(rest[0] ?? '') && unpinned(/.@[\w^~]/))
      problems.push(['LOW', 'DL3016', 'Pin versions in npm install']);
    if (program === 'chmod' && rest.some((word) => /^0?777$|^a\+rwx$/.test(word)))
      problems.push(['MEDIUM', 'chmod-777', 'Everybody may write what is made writable here']);
  }
  return problems;
}
