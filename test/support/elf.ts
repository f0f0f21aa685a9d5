import { readFileSync } from "node:fs";

/** What a 64-bit little-endian ELF library asks of the libraries that it is loaded with. */
export interface ElfNeeds {
  machine: "x64" | "arm64";
  /** DT_NEEDED: `libc.so.6` and the like. */
  libraries: string[];
  /** Version names by library: `libc.so.6` → `GLIBC_2.17`, `GLIBC_2.34`. */
  versions: Map<string, string[]>;
  /** Undefined symbols that name no version, weak ones left out: whoever has loaded the library must have them. */
  unversioned: string[];
}

interface Section {
  type: number;
  offset: number;
  size: number;
  link: number;
}

const MACHINES: Readonly<Record<number, ElfNeeds["machine"]>> = { 62: "x64", 183: "arm64" };
const SHT_DYNAMIC = 6;
const SHT_DYNSYM = 11;
const SHT_GNU_VERNEED = 0x6ffffffe;
const SHT_GNU_VERSYM = 0x6fffffff;
const DT_NEEDED = 1;
const STB_GLOBAL = 1;
/** Versions of symbols: 0 and 1 name none, and bit 15 marks a hidden one. */
const FIRST_VERSION = 2;
const VERSION_MASK = 0x7fff;

/** Reads a library as `readelf --dynamic --version-info --dyn-syms` would, on machines without binutils too. */
export function readElf(path: string): ElfNeeds {
  const file = readFileSync(path);
  if (file.toString("latin1", 0, 4) !== "\x7fELF" || file[4] !== 2 || file[5] !== 1) {
    throw new Error(`${path} is not a 64-bit little-endian ELF file`);
  }
  const machine = MACHINES[file.readUInt16LE(18)];
  if (machine === undefined) throw new Error(`${path} is for machine ${file.readUInt16LE(18)}`);
  const sections = readSections(file);
  const found = (type: number): Section => {
    const section = sections.find((candidate) => candidate.type === type);
    if (section === undefined) throw new Error(`${path} has no section of type 0x${type.toString(16)}`);
    return section;
  };
  const text = (section: Section, offset: number): string => {
    const start = (sections[section.link]?.offset ?? 0) + offset;
    return file.toString("latin1", start, file.indexOf(0, start));
  };
  return {
    machine,
    libraries: neededLibraries(file, found(SHT_DYNAMIC), text),
    versions: neededVersions(file, found(SHT_GNU_VERNEED), text),
    unversioned: unversioned(file, found(SHT_DYNSYM), found(SHT_GNU_VERSYM), text),
  };
}

type Text = (section: Section, offset: number) => string;

function readSections(file: Buffer): Section[] {
  const start = Number(file.readBigUInt64LE(0x28));
  const size = file.readUInt16LE(0x3a);
  return Array.from({ length: file.readUInt16LE(0x3c) }, (_, index) => {
    const at = start + index * size;
    return {
      type: file.readUInt32LE(at + 4),
      offset: Number(file.readBigUInt64LE(at + 0x18)),
      size: Number(file.readBigUInt64LE(at + 0x20)),
      link: file.readUInt32LE(at + 0x28),
    };
  });
}

function neededLibraries(file: Buffer, dynamic: Section, text: Text): string[] {
  const names: string[] = [];
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.size; at += 16) {
    if (file.readBigInt64LE(at) === BigInt(DT_NEEDED)) names.push(text(dynamic, Number(file.readBigUInt64LE(at + 8))));
  }
  return names;
}

function neededVersions(file: Buffer, section: Section, text: Text): Map<string, string[]> {
  const versions = new Map<string, string[]>();
  for (let at = section.offset; ; ) {
    const names: string[] = [];
    for (let entry = at + file.readUInt32LE(at + 8), left = file.readUInt16LE(at + 2); left > 0; left--) {
      names.push(text(section, file.readUInt32LE(entry + 8)));
      entry += file.readUInt32LE(entry + 12);
    }
    versions.set(text(section, file.readUInt32LE(at + 4)), names);
    const next = file.readUInt32LE(at + 12);
    if (next === 0) return versions;
    at += next;
  }
}

function unversioned(file: Buffer, symbols: Section, versions: Section, text: Text): string[] {
  const names: string[] = [];
  for (let index = 1; index < symbols.size / 24; index++) {
    const at = symbols.offset + index * 24;
    const defined = file.readUInt16LE(at + 6) !== 0;
    const global = (file[at + 4] ?? 0) >> 4 === STB_GLOBAL;
    const version = file.readUInt16LE(versions.offset + index * 2) & VERSION_MASK;
    if (!defined && global && version < FIRST_VERSION) names.push(text(symbols, file.readUInt32LE(at)));
  }
  return names;
}
