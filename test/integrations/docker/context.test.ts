import { execFile } from 'node:child_process';
import { chmod, mkdir, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { objectionTo } from '../../../src/integrations/docker/dockerfile.ts';
import { ignoredBy } from '../../../src/integrations/docker/ignore.ts';
import { linesOf, messagesOf } from '../../../src/integrations/docker/streams.ts';
import { contextOf } from '../../../src/integrations/docker/tar.ts';
import { lineSplitter } from '../../../src/integrations/process/lines.ts';
import { temporaryFolder } from '../../support/embedded.ts';
import { Readable } from 'node:stream';

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const one of items) found.push(one);
  return found;
}

const limits = { maxBytes: 2 ** 20, maxFiles: 100 };

test.each([
  ['*.log', 'a.log', true],
  ['*.log', 'folder/a.log', false],
  ['**/*.log', 'folder/deep/a.log', true],
  ['**/*.log', 'a.log', true],
  ['folder', 'folder/deep/a.log', true],
  ['/folder/', 'folder/a', true],
  ['fol?er/*', 'folder/a', true],
  ['*\n!keep', 'keep', false],
  ['*\n!keep', 'other', true],
  ['folder\n!folder/keep', 'folder/keep', false],
  ['# comment\n\n  spaced  ', 'spaced', true],
  ['.', 'a', false],
])('.dockerignore %j: %s is left out: %s', (text, name, left) => {
  expect(ignoredBy(text)(name)).toBe(left);
});

test('a pattern made to be slow is not', () => {
  const from = performance.now();
  expect(ignoredBy(`${'*a'.repeat(2_000)}b`)('a'.repeat(4_000))).toBe(false);
  expect(ignoredBy(`${'**/a/'.repeat(500)}b`)('a/'.repeat(1_000))).toBe(false);
  expect(performance.now() - from).toBeLessThan(20_000);
});

test('the archive is one that tar reads: long and foreign names, modes, links as links; nothing above the folder', async () => {
  const folder = await temporaryFolder();
  const [source, out] = [path.join(folder, 'source'), path.join(folder, 'out')];
  await mkdir(source);
  await mkdir(out);
  const long = Array.from({ length: 12 }, (_, index) => `a-name-of-some-length-${index}`).join('/');
  await mkdir(path.join(source, long), { recursive: true });
  await writeFile(path.join(source, long, 'deep ünïcode.txt'), 'deep');
  await writeFile(path.join(source, 'run.sh'), 'x'.repeat(1_025));
  await chmod(path.join(source, 'run.sh'), 0o700);
  await writeFile(path.join(source, 'private'), '', { mode: 0o600 });
  await symlink('/etc/passwd', path.join(source, 'out'));
  await symlink(`${long}/deep ünïcode.txt`, path.join(source, 'in'));
  await mkdir(path.join(source, '.git'));
  await writeFile(path.join(source, '.git', 'config'), 'x');
  const archive = path.join(folder, 'a.tar');
  await writeFile(archive, Readable.from(contextOf(source, { Dockerfile: 'FROM x\n' }, limits)));
  const run = promisify(execFile);
  await run('tar', ['--extract', '--file', archive, '--directory', out]);
  const { stdout } = await run('find', ['.', '-printf', '%p|%y|%s|%l|%m\n'], { cwd: out });
  const found = stdout.trim().split('\n');
  expect(found).toEqual(
    expect.arrayContaining([
      `./${long}/deep ünïcode.txt|f|4||644`,
      './run.sh|f|1025||755',
      './private|f|0||644',
      './out|l|11|/etc/passwd|777',
      './Dockerfile|f|7||644',
    ]),
  );
  expect(found.some((line) => line.includes('.git'))).toBe(false);
  expect(found.find((line) => line.startsWith('./in|'))).toContain(`|${long}/deep ünïcode.txt|`);
  await expect(all(contextOf(source, {}, { ...limits, maxBytes: 1_000 }))).rejects.toThrow(/more than/);
  await expect(all(contextOf(source, {}, { ...limits, maxFiles: 3 }))).rejects.toThrow(/more than 3 files/);
});

test.each([
  'FROM x\nADD http://127.0.0.1/ /x',
  'FROM x\nadd --chown=1:1 https://example.com/a /x',
  'FROM x\nADD \\\n# a comment\n\n  http://a/b /x',
  'FROM x\nADD ht\\\ntp://a/b /x',
  '# escape=`\nFROM x\nADD `\nhttp://a/b /x',
  'ARG A=http\nFROM x\nADD ${A}://a /x',
  'FROM x\nADD ["\\u0068ttp://a", "/x"]',
  'FROM x\nADD http":"//a/b /x',
  'FROM x\nONBUILD ADD http://a/b /x',
])('a Dockerfile that lets the engine fetch is refused: %j', (dockerfile) => {
  expect(objectionTo(dockerfile)).toMatch(/^ADD takes plain paths/);
});

test.each([
  'FROM 3',
  'FROM cafe AS base',
  'FROM --platform=linux/amd64 3f2a',
  'from sha256:3f2a',
  `FROM ${'3f'.repeat(32)}`,
  'FROM "cafe"',
  'FROM ca\\fe',
  'FROM ca\\\nfe',
  'ARG A=cafe\nFROM $A',
  'ARG A=cafe\nFROM ${A}',
  'ARG A=node\nARG A="ca"fe\nFROM $A',
  'ARG A=cafe\nARG Z="x A=node "\nFROM $A',
  'ARG A=node\nARG A\nFROM $A',
  'FROM ${A:-cafe}',
  'ARG A=256\nFROM sha$A:3f',
  'FROM node:24\nCOPY --from=3f / /x',
  'FROM node:24\nCOPY --chown=1 --from="3f" / /x',
  'FROM node:24\nCOPY --fr\\om=3f / /x',
  'FROM node:24\nONBUILD COPY --from=3f / /x',
  'FROM switchyard/01890a5d-ac96-774b-bcce-b302099a8057/01890a5d-ac96-774b-bcce-b302099a8057:x.1',
  'FROM docker.io/switchyard/01890a5d-ac96-774b-bcce-b302099a8057/a:b',
  'FROM cafe\nFROM node:24 AS cafe',
])('a Dockerfile that could name the image of another application is refused: %j', (dockerfile) => {
  expect(objectionTo(dockerfile)).toMatch(/^FROM and COPY --from take/);
});

test.each([
  'FROM node',
  'FROM node:24 AS cafe\nFROM cafe\nCOPY --from=CAFE --chown=1:1 /a /b\nCOPY --from=0 /a /b',
  'FROM localhost:5000/team/node@sha256:3f2a',
  'ARG NODE=24\nARG BASE="node"\nFROM $BASE:${NODE}-slim\nARG A="x y"\nCOPY --from=alpine:3 /a /b',
  'FROM node:${VERSION}',
  'FROM --platform=$BUILDPLATFORM gcr.io/distroless/nodejs24-debian12',
  'FROM cafe:latest',
  'FROM scratch\nCOPY "a b" /c\nCOPY ["a", "/b"]',
])('one that names images by their names is not: %j', (dockerfile) => {
  expect(objectionTo(dockerfile)).toBeNull();
});

test('others are not', () => {
  expect(
    objectionTo('FROM x\nADD --chown=1:1 a.tar.gz /srv/\nRUN curl http://a\nCOPY a:b $c\n# ADD http://x y\n'),
  ).toBeNull();
});

test('frames and messages that come in pieces', async () => {
  const frame = (which: number, text: string) => {
    const head = Buffer.alloc(8);
    head.writeUInt8(which, 0);
    head.writeUInt32BE(Buffer.byteLength(text), 4);
    return Buffer.concat([head, Buffer.from(text)]);
  };
  const sent = Buffer.concat([frame(1, 'one\ntw'), frame(2, 'error ü\n'), frame(1, 'o\n'), frame(1, 'last')]);
  const bytes = Readable.from(Array.from(sent, (byte) => Buffer.from([byte])));
  expect(await all(linesOf(bytes, lineSplitter))).toEqual(['one', 'error ü', 'two', 'last']);
  const messages = messagesOf(
    Readable.from(Array.from(Buffer.from('{"a":"ü"}\r\n{"b":2}'), (byte) => Buffer.from([byte]))),
  );
  expect(await all(messages)).toEqual([{ a: 'ü' }, { b: 2 }]);
});
